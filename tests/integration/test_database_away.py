"""A database that goes away while events are consumed: hold still, lose nothing, burn no attempt."""

from django.db import connections

from tests.integration.conftest import Spine
from tests.servers.postgres import PostgresServer
from tests.wait import wait_for
from zerver.models import FailedEvent


def test_a_restart_of_the_database_burns_no_attempt_and_loses_nothing(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine = postgres_spine
    spine.publish_many("ledger", range(60), ["sleep", 0.02], ["query"])
    process = spine.work("--queue=ledger", ledger={"retry": {"max_attempts": 1}})
    spine.wait_for_note("effect", n=5)
    postgres_server.stop()
    wait_for(lambda: "database" in process.output, 20, lambda: process.output)
    assert process.is_running()
    postgres_server.start()
    spine.wait_for_numbers(range(60), timeout_seconds=60)
    connections.close_all()
    spine.wait_until_settled("ledger")
    assert {line["attempt"] for line in spine.notes("started")} == {1}
    assert FailedEvent.objects.count() == 0


def test_killed_connections_are_replaced_and_no_attempt_is_burnt(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine = postgres_spine
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["query"], ["wait_while_exists", str(gate)], ["query"], n=0)
    spine.publish_many("ledger", range(1, 20), ["query"])
    spine.work("--queue=ledger", ledger={"retry": {"max_attempts": 1}})
    spine.wait_for_note("started", n=0)
    postgres_server.terminate_connections()
    gate.unlink()
    connections.close_all()
    spine.wait_for_numbers(range(20), timeout_seconds=60)
    assert spine.numbers() == list(range(20))
    assert {line["attempt"] for line in spine.notes("started")} == {1}


def test_a_worker_that_starts_while_the_database_is_away_waits_for_it(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine = postgres_spine
    spine.publish("ledger", n=1)
    postgres_server.stop()
    process = spine.work("--queue=ledger")
    # Whichever lane the event is on: the queue may be paused, and only the database knows.
    process.wait_for_output("it takes nothing before it knows")
    assert spine.notes("started") == []
    postgres_server.start()
    connections.close_all()
    spine.wait_for_numbers([1], timeout_seconds=60)
    assert process.is_running()


def test_the_breaker_pauses_a_queue_whose_events_all_fail_and_closes_when_they_succeed(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish_many("ledger", range(40), ["raise_while_exists", str(gate)])
    policy = {"max_attempts": 50, "base_seconds": 0.05, "factor": 1, "jitter": 0}
    process = spine.work("--queue=ledger", ledger={"retry": policy})
    wait_for(lambda: "breaker open" in process.output, 20, lambda: process.output)
    process.wait_for_output("ValueError")
    started = len(spine.notes("started"))
    assert started < 40, "events were left alone once the breaker had opened"
    wait_for(lambda: any(row.breaker for row in spine.process_rows()), 20, "the row to say why")
    gate.unlink()
    spine.wait_for_numbers(range(40), timeout_seconds=60)
    spine.wait_until_settled("ledger")
    assert spine.numbers() == list(range(40))

"""queue_explain: events followed to wherever they are, and queues that do not move, for every reason that there is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pika
import pytest
from django.db import transaction
from pytest_django import Settings

from tests.integration.checkup import at_work, settle
from tests.integration.commands import Ran, run
from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.servers.databases import TestDatabase
from tests.servers.ports import HOST
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import discard, file_failed, replay
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import FailedEvent, InboxEntry, WaitingEvent
from zerver.worker import handed_back
from zerver.worker.suspects import count_starts

QUEUE = "ledger"
OLD = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.fixture(autouse=True)
def _own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test makes of the clock, it is put back."""
    monkeypatch.setattr(clock, "offset_ms", clock.offset_ms)


def event(what: str) -> dict[str, Any]:
    ran = run("queue_explain", "--json", what)
    assert ran.code == 0, ran.err
    found: dict[str, Any] = ran.json["event"]
    return found


def queue(name: str = QUEUE, *arguments: str) -> dict[str, Any]:
    ran = run("queue_explain", "--json", name, *arguments)
    assert ran.code == 0, ran.err
    found: dict[str, Any] = ran.json["queue"]
    return found


def reasons(story: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in story["reasons"]]


def fail(message_id: str = "m1") -> FailedEvent:
    dead = Event(queue=QUEUE, message_id=message_id, body=b"{}", published_at_ms=clock.now_ms(), attempt=5)
    file_failed(dead, error="ValueError: no", traceback="", worker="", alias="default")
    return FailedEvent.objects.get(message_id=message_id)


# -- events in the event table


def test_an_event_that_waits_for_its_time_says_when(queue_database: TestDatabase) -> None:
    message_id = queue_json_publish(QUEUE, {"n": 1}, delay_seconds=3600)
    story = event(message_id)
    assert story["found"]
    assert abs(story["published_at_ms"] - clock.now_ms()) < 10_000
    assert "attempt 1: waits for its due time" in story["verdict"]
    [sighting] = story["sightings"]
    assert (sighting["place"], sighting["queue"], sighting["attempt"]) == ("event-table", QUEUE, 1)


@on_sqlite
def test_an_event_that_is_tried_again_names_the_line_of_the_log_that_says_why(spine: Spine) -> None:
    message_id = spine.publish(QUEUE, ["raise", "the mail server is away"])
    worker = spine.work(f"--queue={QUEUE}", ledger={"retry": {"base_seconds": 600, "cap_seconds": 600}})
    words = f"event {message_id}, attempt 1: retry: "
    wait_for(lambda: words in worker.output, 30, lambda: worker.output)
    assert "the mail server is away" in worker.output.partition(words)[2].splitlines()[0]
    verdict = event(message_id)["verdict"]
    assert "attempt 2: waits for its due time" in verdict
    assert verdict.endswith(f'; why attempt 1 failed: its workers\' logs, "{words}…"')


def test_an_event_that_is_due_and_free_points_to_its_queue(queue_database: TestDatabase) -> None:
    message_id = queue_json_publish(QUEUE, {"n": 1})
    assert f"free; why nobody takes it: ./manage.py queue_explain {QUEUE}" in event(message_id)["verdict"]


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(queue_database: TestDatabase) -> None:
    message_id = queue_json_publish(QUEUE, {"n": 1})
    WaitingEvent.objects.update(message_id=OLD)
    assert event(OLD[:8])["message_id"] == OLD
    assert event(OLD.upper())["message_id"] == OLD
    fail(other := OLD[:-1] + "0")
    ran = run("queue_explain", OLD[:8])
    assert ran.code == 1
    assert OLD in ran.err
    assert other in ran.err
    ran = run("queue_explain", OLD[:7])
    assert ran.code == 1
    assert ran.err.startswith(
        f"{OLD[:7]!r} is too short for a message id, of which 8 characters are needed, and no worker declares queue "
    )
    assert message_id != OLD


@on_sqlite
def test_an_event_in_a_workers_hand_names_it_alive_and_dead(spine: Spine) -> None:
    worker = spine.work(f"--queue={QUEUE}")
    message_id = spine.publish(QUEUE, ["sleep", 60.0])
    spine.wait_for_note("started")
    verdict = event(message_id)["verdict"]
    assert "in the hand of worker process" in verdict
    assert f":{worker.pid}, until" in verdict
    worker.kill()
    wait_for(lambda: "which is there no more" in event(message_id)["verdict"], 20, "its end to be known")


@on_rabbitmq
def test_an_event_that_its_publisher_holds_is_told(spine: Spine, settings: Settings) -> None:
    with transaction.atomic():
        message_id = queue_json_publish(QUEUE, {"n": 1})
        # Of the transaction's own connection alone it can be seen; the story has another.
        assert WaitingEvent.objects.filter(message_id=message_id).exists()
        transaction.set_rollback(True)
    EventTable("default").store(
        [Event(queue=QUEUE, message_id="m1", body=b"{}", published_at_ms=clock.now_ms())], lease_seconds=30
    )
    assert "held by who published it" in event("m1")["verdict"]
    # The other one was never there.
    assert "never published" in " ".join(event(message_id)["could_be"])


def test_a_redelivered_event_is_told_as_a_suspect(queue_database: TestDatabase) -> None:
    message_id = queue_json_publish(QUEUE, {"n": 1})
    count_starts(QUEUE, [message_id], "here:4711", "default")
    places = {sighting["place"]: sighting["what"] for sighting in event(message_id)["sightings"]}
    assert set(places) == {"event-table", "suspect"}
    assert "1 worker process may have died of it; begun last by here:4711" in places["suspect"]


def test_one_that_was_handed_back_and_not_taken_since_is_told_so(queue_database: TestDatabase) -> None:
    handed_back.note(QUEUE, ["m1"], "default")
    assert (
        "by a worker process that had not begun it, and not taken by another since" in event("m1")["verdict"]
    )


# -- what became of events


def test_a_failed_event_says_its_error_and_how_to_see_it(queue_database: TestDatabase) -> None:
    failed = fail()
    assert f"failed event {failed.pk}: given up at attempt 5" in event("m1")["verdict"]
    assert "ValueError: no" in event("m1")["verdict"]
    assert f"queue_failed show {failed.pk}" in event("m1")["verdict"]
    discard(failed, by="ann", alias="default")
    assert f"failed event {failed.pk}, discarded by ann" in event("m1")["verdict"]


def test_replays_are_followed_both_ways(queue_database: TestDatabase) -> None:
    second = replay(fail(), by="ann", alias="default")
    assert second
    assert [(each["message_id"], each["relation"]) for each in event("m1")["replays"]] == [(second, "replay")]
    assert "due since" in event("m1")["replays"][0]["verdict"]
    assert f"replayed as {second} by ann" in event("m1")["verdict"]
    WaitingEvent.objects.all().delete()
    third = replay(fail(second), by="bob", alias="default")
    assert [each["message_id"] for each in event("m1")["replays"]] == [second, third]
    assert third
    told = event(third)
    assert [(each["message_id"], each["relation"]) for each in told["replays"]] == [
        (second, "original"),
        ("m1", "original"),
    ]
    # The failed events may have been pruned; the replay still says what it replays.
    FailedEvent.objects.all().delete()
    assert [each["message_id"] for each in event(third)["replays"]] == [second]


@on_sqlite
def test_what_a_transactional_queue_has_done_is_known(spine: Spine) -> None:
    message_id = spine.publish("ledger_transactional")
    spine.work("--queue=ledger_transactional")
    wait_for(InboxEntry.objects.exists, 30, "the event to be done")
    spine.wait_until_settled("ledger_transactional")
    assert "queue ledger_transactional: done at" in event(message_id)["verdict"]


def test_what_nothing_knows_is_told_with_what_it_may_mean(queue_database: TestDatabase) -> None:
    story = event(OLD)
    assert not story["found"]
    assert story["published_at_ms"] == 1645557742000
    told = " ".join(story["could_be"])
    assert "fast lane" not in told
    for meaning in ("done", "never published", "forgotten", "purged"):
        assert meaning in told
    fresh = event(clock.new_message_id())
    assert "forgotten" not in " ".join(fresh["could_be"])
    foreign = event("0b7b6d4c-5d2b-4b39-8f43-2b5b3a6c8f11")
    assert foreign["published_at_ms"] is None
    assert run("queue_explain", OLD).out.startswith(f"{OLD}, published at 2022-02-22 19:22:22Z")


@on_rabbitmq
def test_an_event_on_the_fast_lane_may_be_there_as_long_as_something_is(
    spine: Spine, settings: Settings, rabbit_server: RabbitServer
) -> None:
    message_id = spine.publish(QUEUE)

    def guesses() -> str:
        return " ".join(event(message_id)["could_be"])

    wait_for(lambda: "1 is ready there, 0 in workers' hands" in guesses(), 20, guesses)
    current.fast_lane().purge(queues.lookup(QUEUE))  # type: ignore[union-attr]
    wait_for(lambda: "fast lane" not in guesses(), 20, guesses)
    message_id = spine.publish(QUEUE, ["sleep", 60.0])
    spine.work(f"--queue={QUEUE}")
    spine.wait_for_note("started")
    wait_for(lambda: "0 are ready there, and an unknown number" in guesses(), 20, guesses)
    settings.QUEUE_MANAGEMENT_URL = rabbit_server.management_url
    current.close_all()
    wait_for(lambda: "0 are ready there, 1 in workers' hands" in guesses(), 20, guesses)
    settings.QUEUE_URL = "amqp://guest:s3cret-of-mine@127.0.0.1:1/"
    current.close_all()
    ran = run("queue_explain", message_id)
    assert "on the fast lane, not all of which could be asked" in ran.out
    assert "not asked: RabbitMQ at 127.0.0.1:1" in ran.out
    assert "s3cret" not in ran.out + ran.err


def test_a_broker_that_says_nothing_holds_nobody(queue_database: TestDatabase, settings: Settings) -> None:
    with socket.create_server((HOST, 0)) as mute:
        settings.QUEUE_URL = f"amqp://guest:s3cret-of-mine@{HOST}:{mute.getsockname()[1]}/"
        ran = run("queue_explain", OLD, "--timeout=0.5")
        assert ran.code == 0
        assert "not asked: the broker has not answered within 0.5 s" in ran.out, ran.out
        assert reasons(queue(QUEUE, "--timeout=0.5"))[0] == "workers.none"
    settle()


# -- queues


def test_a_queue_where_nothing_is_due_says_when_the_next_one_is(queue_database: TestDatabase) -> None:
    assert queue()["verdict"] == "nothing is due"
    queue_json_publish(QUEUE, {"n": 1}, delay_seconds=3600)
    story = queue()
    assert story["moves"] is None
    assert story["verdict"].startswith("nothing is due; 1 is due later, the next at ")
    assert story["next_due_at_ms"] > clock.now_ms()
    assert "queue.later" in reasons(story)


def test_a_queue_without_workers_says_so_first(queue_database: TestDatabase) -> None:
    queue_json_publish(QUEUE, {"n": 1})
    queue_json_publish(QUEUE, {"n": 1}, delay_seconds=3600)
    story = queue()
    assert story["moves"] is False
    assert reasons(story) == ["workers.none", "queue.later"]
    assert story["verdict"].startswith("it does not move, 1 is due: no worker process is there")


def test_a_disabled_queue_and_a_test_queue_say_why_nobody_is_there(queue_database: TestDatabase) -> None:
    for name in ("ledger_disabled", "ledger_hidden"):
        queue_json_publish(name, {"n": 1})
    assert reasons(queue("ledger_disabled")) == ["queue.disabled"]
    assert reasons(queue("ledger_hidden")) == ["workers.none"]


def test_an_undeclared_queue_is_explained_while_it_holds_something(queue_database: TestDatabase) -> None:
    ran = run("queue_explain", "bygone")
    assert ran.code == 1
    assert "no worker declares queue 'bygone'" in ran.err
    queue_json_publish(QUEUE, {"n": 1})
    WaitingEvent.objects.update(queue="bygone")
    assert reasons(queue("bygone"))[0] == "table.undeclared"


def test_workers_that_are_silent_are_no_workers(queue_database: TestDatabase) -> None:
    at_work(QUEUE, heartbeat_at_ms=EventTable("default").now_ms() - 120_000)
    queue_json_publish(QUEUE, {"n": 1})
    assert reasons(queue()) == ["workers.none", "workers.silent"]


@on_sqlite
def test_a_queue_that_moves_says_how_fast(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(400), ["sleep", 0.1])
    spine.work(f"--queue={QUEUE}")
    spine.wait_for_note("effect")
    story = queue(QUEUE, "--look=15")
    assert story["moves"] is True
    assert story["rate_per_minute"] > 1
    assert story["verdict"].startswith("it moves: ")
    assert not {"queue.busy", "queue.idle", "workers.none"} & set(reasons(story))


@on_sqlite
def test_a_worker_that_is_busy_with_one_event_is_told(spine: Spine) -> None:
    for _ in range(3):
        spine.publish(QUEUE, ["sleep", 25.0])
    spine.work(f"--queue={QUEUE}", ledger={"prefetch": 1})
    spine.wait_for_note("started")
    story = wait_for(lambda: _if(queue(QUEUE, "--look=12"), "queue.busy"), 60, lambda: str(queue()))
    assert reasons(story)[0] == "queue.busy"
    assert "none was finished in 12 s" in story["verdict"]
    assert "queue.held" in reasons(story)


@on_rabbitmq
def test_what_was_fetched_ahead_and_waits_behind_a_slow_event_is_due_and_told_everywhere(
    spine: Spine,
) -> None:
    """No lane shows it any more; the management API, which would, is not asked here."""
    spine.work(f"--queue={QUEUE}")
    spine.publish(QUEUE, ["sleep", 25.0])
    spine.wait_for_note("started")
    spine.publish_many(QUEUE, range(3))
    story = wait_for(lambda: _if(queue(QUEUE, "--look=6"), "queue.busy"), 40, lambda: str(queue()))
    assert (story["ready"], story["moves"]) == (3, False)
    assert story["verdict"].startswith(
        "it does not move, 3 are due: its 1 worker process is busy with 1 event; none was finished in 6 s"
    )
    [told] = [reason for reason in story["reasons"] if reason["code"] == "queue.unbegun"]
    assert told["what"].startswith(
        "3 of its events are with its worker processes, and not begun; the oldest has been"
    )
    [status] = run("queue_status", "--json", QUEUE).json["queues"]
    assert (status["ready"], status["unbegun"], status["unacked"]) == (0, 3, None)
    assert status["oldest_ms"] > 1000
    assert status["backlog_seconds"] == status["oldest_ms"] / 1000
    assert run("queue_status", QUEUE).row(QUEUE)[2] == "≥4"


def _if(story: dict[str, Any], code: str) -> dict[str, Any] | None:
    return story if code in reasons(story) else None


@on_sqlite
def test_an_open_breaker_is_told_with_its_reason(spine: Spine) -> None:
    for number in range(30):
        spine.publish(QUEUE, ["raise", "the mail server is away"], n=number)
    spine.work(f"--queue={QUEUE}", ledger={"retry": {"base_seconds": 0.01, "cap_seconds": 0.01}})
    story = wait_for(
        lambda: _if(queue(QUEUE, "--look=0.5"), "workers.breaker"), 60, lambda: str(queue(QUEUE))
    )
    told = next(reason for reason in story["reasons"] if reason["code"] == "workers.breaker")
    assert "the mail server is away" in told["what"]
    looked = queue(QUEUE)
    assert looked["rate_per_minute"] == 0, "the trials fail"
    for each in (story, looked):
        assert each["moves"] is False, each
        assert " due: its breaker is open: " in each["verdict"], each
        assert "the mail server is away" in each["verdict"]


@on_sqlite
def test_suspects_are_told(spine: Spine) -> None:
    message_id = spine.publish(QUEUE)
    count_starts(QUEUE, [message_id], "here:1", "default")
    [told] = [reason for reason in queue()["reasons"] if reason["code"] == "queue.suspects"]
    assert told["what"].startswith("1 of its events is a suspect: ")


@on_rabbitmq
def test_the_brokers_part_in_it_is_told(spine: Spine, settings: Settings) -> None:
    spine.publish(QUEUE)
    at_work(QUEUE)
    story = wait_for(lambda: _if(queue(QUEUE, "--look=0.5"), "broker.no-consumers"), 20, lambda: str(queue()))
    assert (story["ready"], story["moves"]) == (1, None)
    assert story["verdict"].startswith("1 is due; its workers were not looked at for long enough")
    story = queue()
    assert (reasons(story), story["moves"]) == (["broker.no-consumers", "queue.idle"], False)
    assert "nobody consumes it on the broker" in story["verdict"]
    settings.QUEUE_URL = "amqp://guest:guest@127.0.0.1:1/"
    current.close_all()
    assert "broker.unreachable" in reasons(queue(QUEUE, "--look=0.5"))


@on_rabbitmq
def test_what_is_due_on_a_broker_that_was_not_asked_is_not_called_nothing(
    spine: Spine, settings: Settings
) -> None:
    assert queue()["verdict"] == "nothing is due"
    settings.QUEUE_URL = "amqp://guest:guest@127.0.0.1:1/"
    current.close_all()
    story = queue()
    assert story["verdict"].startswith(
        "nothing is due in the event table; what is due on the broker is not known: "
    )
    assert (story["ready"], story["moves"]) == (None, None)
    assert "broker.unreachable" in reasons(story)


@on_rabbitmq
def test_an_undeclared_queue_is_counted_on_the_broker_too(spine: Spine) -> None:
    fail()
    FailedEvent.objects.update(queue="bygone")
    with pika.BlockingConnection(pika.URLParameters(spine.env["QUEUE_URL"])) as connection:
        channel = connection.channel()
        channel.queue_declare("bygone", durable=True)
        channel.basic_publish("", "bygone", b"{}")
    story = wait_for(lambda: found if (found := queue("bygone"))["ready"] else None, 20)
    assert (story["ready"], story["moves"]) == (1, False)
    assert story["verdict"].startswith("it does not move, 1 is due: ")


@on_rabbitmq
def test_other_arguments_come_before_workers_that_would_not_start(spine: Spine) -> None:
    spine.publish(QUEUE)
    fast = current.fast_lane()
    assert fast is not None
    wait_for(lambda: fast.depth(queues.lookup(QUEUE)).ready == 1, 20, "the broker to count it")
    queues.apply_overrides({QUEUE: {"queue_type": "classic"}})
    try:
        story = queue()
    finally:
        queues.apply_overrides({})
    assert reasons(story)[:2] == ["broker.queue-arguments", "workers.none"]
    assert story["verdict"].startswith(
        "it does not move, 1 is due: it differs from its declaration: x-queue-type: broker has quorum, code declares "
        "classic; x-dead-letter-strategy: broker has at-least-once"
    )
    [nobody] = [reason["what"] for reason in story["reasons"] if reason["code"] == "workers.none"]
    assert nobody == "no worker process is there; ready on the broker: 1"


@on_sqlite
def test_a_database_that_cannot_be_asked_is_the_reason(
    spine: Spine, project_process: Callable[..., Any], tmp_path: Any
) -> None:
    env = {**spine.env, "DATABASE_URL": f"sqlite:///{tmp_path}/new.sqlite3"}
    on_queue = project_process("queue_explain", QUEUE, env=env)
    on_event = project_process("queue_explain", OLD, env=env)
    assert on_queue.wait(60) == 0
    assert "table.migrations" in on_queue.output
    assert on_queue.output.startswith(
        f"{QUEUE}: nobody can tell whether it moves; database default: migrations are not applied: zerver.0001_initial"
    )
    assert on_event.wait(60) == 1
    assert "manage.py migrate" in on_event.output


def test_people_see_sentences_and_tables(queue_database: TestDatabase) -> None:
    message_id = queue_json_publish(QUEUE, {"n": 1})
    shown: Ran = run("queue_explain", message_id)
    assert shown.out.splitlines()[1].startswith(f"queue {QUEUE}: in the event table, attempt 1: due since")
    assert shown.row("event-table")[:3] == ["event-table", QUEUE, "1"]
    shown = run("queue_explain", QUEUE)
    assert shown.out.startswith(f"{QUEUE}: it does not move, 1 is due: no worker process is there")
    assert "not looked at: broker" in shown.out
    assert run("queue_explain", QUEUE, "--look=0.1").code == 0

"""A broker that is killed, frozen, restarted, short of memory or disk, and rid of its connections, queues and rights.

What may come twice after each of these: of every worker process, the acknowledgements on their way (the ack window),
for a connection takes them along; of every producer, the call on its way, of which the broker may have stored all
without our hearing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.chaos.conftest import long_form_only
from tests.chaos.stage import ACK_WINDOW, MOST_AT_ONCE, Stage
from tests.servers.rabbitmq import RabbitServer

WORKERS = 2
PER_FAULT = WORKERS * ACK_WINDOW + MOST_AT_ONCE


@pytest.fixture
def stage(rabbit_stage: Stage) -> Stage:
    stage = rabbit_stage
    stage.env["QUEUE_PUBLISH_TIMEOUT_SECONDS"] = str(stage.scale.of(2, 5))
    for _ in range(WORKERS):
        stage.work()
    return stage


def rounds(stage: Stage, faults: int) -> Iterator[int]:
    return stage.rounds(faults, 400, per_second=40, among=120)


def test_a_broker_that_is_killed_and_comes_back_with_its_data(
    stage: Stage, rabbit_server: RabbitServer
) -> None:
    kills = stage.scale.of(1, 10)
    for _ in rounds(stage, kills):
        rabbit_server.remember_queues()
        rabbit_server.kill()
        stage.let_pass(stage.chance.uniform(0, 2))
        rabbit_server.start()
    stage.balance("broker killed (SIGKILL) and restarted", faults=kills, duplicates_per_fault=PER_FAULT)
    assert stage.ends == 0


def test_a_broker_that_is_restarted_in_good_order(stage: Stage, rabbit_server: RabbitServer) -> None:
    restarts = stage.scale.of(1, 10)
    for _ in rounds(stage, restarts):
        rabbit_server.graceful_stop()
        rabbit_server.start()
    stage.balance("broker restarted in good order", faults=restarts, duplicates_per_fault=PER_FAULT)
    assert stage.ends == 0


def test_a_broker_that_stands_still_for_longer_than_a_publish_may_take(
    stage: Stage, rabbit_server: RabbitServer
) -> None:
    """The calls that were on their way end at their deadlines, and later ones do not wait."""
    stops = stage.scale.of(1, 10)
    for _ in rounds(stage, stops):
        rabbit_server.stop_signal()
        stage.let_pass(stage.scale.of(6, 30))
        rabbit_server.cont_signal()
    stage.balance(
        "broker stopped (SIGSTOP) for longer than a publish may take",
        faults=stops,
        duplicates_per_fault=PER_FAULT,
    )
    assert stage.ends == 0


def test_connections_that_an_operator_closes(stage: Stage, rabbit_server: RabbitServer) -> None:
    closings = stage.scale.of(4, 40)
    count = 100 * closings
    stage.produce(count, per_second=60)
    for number, _ in enumerate(stage.moments(closings, among=count // 2)):
        if number:
            rabbit_server.close_all_connections()
        else:
            rabbit_server.rabbitmqctl("close_all_connections", "maintenance")
    stage.balance("connections closed by the operator", faults=closings, duplicates_per_fault=PER_FAULT)
    assert stage.ends == 0


# RabbitMQ 3.10.8 forgets a consumer, now and then, whose queue is deleted and declared again at once; it begins anew a
# minute later, which is too long for the quick form.
@long_form_only
def test_a_queue_that_is_deleted_underneath_takes_along_what_it_held_and_nothing_else(
    stage: Stage, rabbit_server: RabbitServer
) -> None:
    """What the broker held it holds no longer, and nobody else has it: those events are lost, and that is all.

    Of three kinds of events everything is promised, and proved: those whose publishing began when the queue had been
    deleted; those that wait in the event table (due later), whenever they were published; those that had their effect.
    """
    deletions = stage.scale.of(1, 10)
    deleted_at: list[float] = []
    # More than the workers can do: the queue holds some when it goes.
    for _ in stage.rounds(deletions, 400, per_second=100, among=60, sleep=0.03, delay=10):
        rabbit_server.delete_queue(stage.env["QUEUE_URL"], "ledger")
        deleted_at.append(time.time())
        stage.produce(20)  # should all the others have been published by then
        rabbit_server.ensure_storing()
    # A call that began before a deletion may be entered into the ledger long after it.
    stage.await_producers()
    forsake_what_the_broker_had(stage, deleted_at)
    stage.balance("queue deleted by the operator", faults=deletions, duplicates_per_fault=PER_FAULT)
    assert stage.ledger.lost, "the queue was empty when it was deleted: nothing has been shown"
    assert stage.ends == 0


def forsake_what_the_broker_had(stage: Stage, deleted_at: Sequence[float]) -> None:
    """Published by a call that began before a deletion, and due by then."""
    stage.ledger.read()
    stage.ledger.forsaken |= {
        n
        for n, began_at in stage.ledger.began.items()
        # The second: a due time is counted from the row's storing, a little before the call returned.
        if any(began_at <= at and stage.ledger.accepted[n] < at + 1 for at in deleted_at)
    }


@pytest.mark.parametrize("short_of", ["memory", "disk"])
def test_a_broker_in_alarm(stage: Stage, rabbit_server: RabbitServer, short_of: str) -> None:
    """It reads nothing from producers, and goes on with workers.

    No connection is cut, so nothing comes twice of workers; but of a producer whose call was on its way.
    """
    alarms = stage.scale.of(1, 20)
    set_alarm: Callable[[bool], None] = getattr(rabbit_server, f"set_{short_of}_alarm")
    for _ in stage.rounds(alarms, 200, per_second=40, among=80):
        set_alarm(True)
        stage.let_pass(stage.scale.of(2, 10))
        set_alarm(False)
    stage.balance(f"broker in alarm, short of {short_of}", faults=alarms, duplicates_per_fault=MOST_AT_ONCE)
    assert stage.ends == 0


@pytest.mark.parametrize(
    "withdrawn",
    [
        "rights",
        # Who is refused at the door asks again after half a minute.
        pytest.param("login", marks=long_form_only),
    ],
)
def test_rights_that_are_withdrawn_and_given_back(
    stage: Stage, rabbit_server: RabbitServer, withdrawn: str
) -> None:
    withdrawals = stage.scale.of(1, 10)
    url = stage.env["QUEUE_URL"]
    for _ in rounds(stage, withdrawals):
        if withdrawn == "login":
            rabbit_server.bar(url)
        else:
            rabbit_server.permit(url, False)
        # The broker remembers what a channel was permitted; a client that comes anew is asked anew.
        rabbit_server.close_all_connections()
        stage.let_pass(stage.scale.of(3, 15))
        rabbit_server.permit(url, True)
    stage.balance(f"{withdrawn} withdrawn and given back", faults=withdrawals, duplicates_per_fault=PER_FAULT)
    assert stage.ends == 0

"""The publisher against a real broker: every answer in time, and nothing said to be stored that is not."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.rabbit import (
    AMPLE_SECONDS,
    Consumer,
    declaration,
    event,
    fates,
    open_transport,
    user,
    wait_for_depth,
)
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.transport.base import Fate
from zerver.lib.transport.rabbitmq import RabbitTransport, line
from zerver.lib.transport.rabbitmq.wire import WireConnection

STORED, REFUSED, UNKNOWN = Fate.STORED, Fate.REFUSED, Fate.UNKNOWN


@pytest.fixture
def transport(rabbit_vhost: str) -> Iterator[RabbitTransport]:
    """Classic queues: a quorum queue that was declared just before the broker is killed is lost (3.10)."""
    with open_transport(rabbit_vhost, queue_type="classic") as opened:
        yield opened


def test_an_event_is_confirmed_and_waits_on_a_queue_that_was_declared_for_it(rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost) as transport:
        assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
        wait_for_depth(transport, ready=1)
        wait_for_depth(transport, declaration("zerver_dead"), ready=0)


def test_who_may_do_nothing_but_publish_publishes_to_queues_that_are_there(
    rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    """Neither to declare a queue, nor (4.3) to look whether it is there."""
    with (
        open_transport(rabbit_vhost) as operator,
        user(rabbit_server, rabbit_vhost, write="^amq.default$") as url,
    ):
        operator.check_queue(declaration())
        with open_transport(url) as transport:
            there, missing = transport.publish([event(), event(queue="letters")], AMPLE_SECONDS)
        assert there.fate is STORED
        assert missing.fate is REFUSED
        wait_for_depth(operator, ready=1)


def test_many_events_are_confirmed_in_one_wait_beyond_the_window(transport: RabbitTransport) -> None:
    count = 10_017
    assert fates(transport.publish([event(n) for n in range(count)], AMPLE_SECONDS)) == [STORED] * count
    assert transport.depth(declaration()).ready == count


def test_many_threads_publish_over_one_connection(rabbit_server: RabbitServer, rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost) as transport, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: transport.publish([event(n)], AMPLE_SECONDS), range(400)))
        assert [fates(answer) for answer in answers] == [[STORED]] * 400
        wait_for_depth(transport, ready=400)
        vhost = rabbit_vhost.rpartition("/")[2]
        wait_for(
            lambda: len(rabbit_server.api("GET", f"/vhosts/{vhost}/connections")) == 1,
            message="one connection",
        )


def test_events_of_many_threads_leave_in_one_write(
    transport: RabbitTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    engine = transport._publisher.of_process().engine()
    writes: list[bytes] = []
    send = WireConnection._send

    def counted(connection: WireConnection, data: bytes) -> None:
        writes.append(data)
        send(connection, data)

    thaw = threading.Event()
    engine.connection.call_soon(lambda: thaw.wait(60))
    with ThreadPoolExecutor(32) as pool:
        calls = [pool.submit(transport.publish, [event(n)], AMPLE_SECONDS) for n in range(32)]
        wait_for(lambda: len(engine._inbox) == 32, message="all to be handed over")
        monkeypatch.setattr(WireConnection, "_send", counted)
        thaw.set()
        assert [fates(call.result()) for call in calls] == [[STORED]] * 32
    assert len(writes) == 1


def test_a_queue_that_was_deleted_refuses_once_and_is_declared_anew(transport: RabbitTransport) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    transport.admin.delete_queue("parcels", if_empty=False)
    (answer,) = transport.publish([event()], AMPLE_SECONDS)
    assert answer.fate is REFUSED
    assert "no queue 'parcels'" in answer.problem
    assert not answer.event_at_fault
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]


@pytest.mark.parametrize("tells_its_limit", [True, False], ids=["limit told", "bisection"])
def test_a_body_over_the_brokers_limit_fails_alone(
    rabbit_server: RabbitServer, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch, tells_its_limit: bool
) -> None:
    if not tells_its_limit:
        monkeypatch.setattr(line, "_TOO_LARGE", re.compile("never said"))
    with rabbit_server.setting("max_message_size", 100_000), open_transport(rabbit_vhost) as transport:
        events = [event(n) for n in range(101)]
        events[30] = event(body=b"x" * 100_001)
        events[70] = event(body=b"x" * 200_000)
        answers = transport.publish(events, AMPLE_SECONDS)
        assert [index for index, answer in enumerate(answers) if answer.fate is not STORED] == [30, 70]
        assert [answers[index].fate for index in (30, 70)] == [REFUSED, REFUSED]
        assert answers[30].event_at_fault
        assert "100000" in answers[30].problem
        assert fates(transport.publish([event(0), event(body=b"x" * 300_000)], AMPLE_SECONDS)) == [
            STORED,
            REFUSED,
        ]
        # What was in flight beside it was sent again, under the same message ids: twice is allowed, never is not.
        received = Consumer(transport, declaration(prefetch=1000))
        wanted, bodies = {each.body for each in events if len(each.body) < 99}, set[bytes]()

        def has_come() -> bool:
            bodies.update(delivery.event.body for delivery in received.lane.take(1000))
            return bodies >= wanted

        wait_for(has_come, 20, lambda: f"{wanted - bodies}")
        assert bodies == wanted
        received.close()


def test_what_cannot_be_encoded_fails_alone(transport: RabbitTransport) -> None:
    good = event()
    answers = transport.publish(
        [good, event(message_id="x" * 300), event(headers={"n" * 300: "v"}), event(headers={"a": "\ud800"})],
        AMPLE_SECONDS,
    )
    assert fates(answers) == [STORED, REFUSED, REFUSED, REFUSED]
    assert [answer.event_at_fault for answer in answers] == [False, True, True, True]


def test_the_brokers_own_headers_are_not_sent_back_to_it(transport: RabbitTransport) -> None:
    assert fates(transport.publish([event(headers={"CC": "elsewhere", "x-death": "1"})], AMPLE_SECONDS)) == [
        STORED
    ]


def test_a_queue_of_other_arguments_refuses_its_own_events_alone(rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost, queue_type="classic") as before:
        before.check_queue(declaration("parcels", queue_type="classic"))
    with open_transport(rabbit_vhost) as transport:
        answers = transport.publish([event(), event(queue="letters"), event()], AMPLE_SECONDS)
        assert fates(answers) == [REFUSED, STORED, REFUSED]
        assert "other arguments" in answers[0].problem
        assert "queue_admin migrate parcels" in answers[0].problem
        assert fates(transport.publish([event(), event(queue="letters")], AMPLE_SECONDS)) == [REFUSED, STORED]


def test_a_full_queue_refuses_what_it_has_no_room_for(
    transport: RabbitTransport, rabbit_vhost: str, rabbit_server: RabbitServer
) -> None:
    vhost = rabbit_vhost.rpartition("/")[2]
    rabbit_server.api(
        "PUT",
        f"/policies/{vhost}/small",
        {
            "pattern": "parcels",
            "definition": {"max-length": 5, "overflow": "reject-publish"},
            "apply-to": "queues",
        },
    )
    answers = [transport.publish([event(n)], AMPLE_SECONDS)[0] for n in range(7)]
    assert fates(answers) == [STORED] * 5 + [REFUSED] * 2
    assert "could not store" in answers[-1].problem
    assert not answers[-1].event_at_fault


def test_two_processes_that_declare_a_queue_at_once_both_publish_to_it(rabbit_vhost: str) -> None:
    """A quorum queue is declared for the second one before it can store anything."""
    for number in range(8):
        queue = f"parcels_{number}"
        with (
            open_transport(rabbit_vhost) as one,
            open_transport(rabbit_vhost) as other,
            ThreadPoolExecutor(2) as pool,
        ):
            answers = [
                pool.submit(each.publish, [event(queue=queue)], AMPLE_SECONDS) for each in (one, other)
            ]
            assert [fates(answer.result()) for answer in answers] == [[STORED], [STORED]]

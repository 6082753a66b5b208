"""The publisher against a real broker: every answer in time, and nothing said to be stored that is not."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.rabbit import (
    EPSILON_SECONDS,
    Consumer,
    declaration,
    event,
    fates,
    open_transport,
    told_changes,
)
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.clock import monotonic
from zerver.lib.transport.base import Fate
from zerver.lib.transport.rabbitmq import RabbitTransport, engine, flight
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.connection import State

STORED, REFUSED, UNKNOWN = Fate.STORED, Fate.REFUSED, Fate.UNKNOWN


@pytest.fixture
def transport(rabbit_vhost: str) -> Iterator[RabbitTransport]:
    """Classic queues: a quorum queue that was declared just before the broker is killed is lost (3.10)."""
    with open_transport(rabbit_vhost, queue_type="classic") as opened:
        yield opened


def is_back(transport: RabbitTransport) -> Callable[[], bool]:
    return lambda: fates(transport.publish([event()], 2)) == [STORED]


def test_an_event_is_confirmed_and_waits_on_a_queue_that_was_declared_for_it(rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost) as transport:
        assert fates(transport.publish([event()], 10)) == [STORED]
        assert transport.depth(declaration()).ready == 1
        assert transport.depth(declaration("zerver_dead")).ready == 0


def test_many_events_are_confirmed_in_one_wait_beyond_the_window(transport: RabbitTransport) -> None:
    count = engine.WINDOW_EVENTS * 2 + 17
    assert fates(transport.publish([event(n) for n in range(count)], 60)) == [STORED] * count
    assert transport.depth(declaration()).ready == count


def test_many_threads_publish_over_one_connection(rabbit_server: RabbitServer, rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost) as transport, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: transport.publish([event(n)], 30), range(400)))
        assert [fates(answer) for answer in answers] == [[STORED]] * 400
        assert transport.depth(declaration()).ready == 400
        vhost = rabbit_vhost.rpartition("/")[2]
        wait_for(
            lambda: len(rabbit_server.api("GET", f"/vhosts/{vhost}/connections")) == 1,
            message="one connection",
        )


def test_a_queue_that_was_deleted_refuses_once_and_is_declared_anew(transport: RabbitTransport) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    transport.admin.delete_queue("parcels", if_empty=False)
    (answer,) = transport.publish([event()], 10)
    assert answer.fate is REFUSED
    assert "no queue 'parcels'" in answer.problem
    assert not answer.event_at_fault
    assert fates(transport.publish([event()], 10)) == [STORED]


def test_a_killed_broker_costs_no_waiting_and_comes_back_by_itself(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    rabbit_server.kill()
    wait_for(lambda: transport.is_away, message="the loss to be noticed")
    started = monotonic()
    (answer,) = transport.publish([event()], 5)
    assert answer.fate is REFUSED
    assert "cannot be reached" in answer.problem
    assert monotonic() - started < EPSILON_SECONDS
    rabbit_server.start()
    wait_for(is_back(transport), 30, "publishing to work again")


def test_events_in_flight_when_the_broker_dies_are_in_doubt_and_resolved_as_such(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    rabbit_server.stop_signal()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.publish, [event(), event()], 30)
        in_flight = transport._publisher._engines()._threaded_engine()
        wait_for(lambda: len(in_flight._in_flight) == 2, message="both to be sent")
        rabbit_server.kill()
        answers = waiting.result(timeout=10)
    assert fates(answers) == [UNKNOWN, UNKNOWN]
    assert [answer.late and answer.late.result(timeout=5) for answer in answers] == [False, False]


def test_a_broker_that_was_never_there_takes_no_longer_than_it_takes_to_find_out() -> None:
    with open_transport("amqp://127.0.0.1:1/") as transport:
        started = monotonic()
        (answer,) = transport.publish([event()], 5)
        assert answer.fate is REFUSED
        assert monotonic() - started < EPSILON_SECONDS
        assert transport.is_away


def test_a_frozen_broker_is_waited_for_no_longer_than_the_deadline_and_a_late_confirm_is_told(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    rabbit_server.stop_signal()
    wait_for(lambda: not rabbit_server.ready(), message="all of it to stand still")
    started = monotonic()
    (answer,) = transport.publish([event()], 1)
    assert 0.9 < monotonic() - started < 1 + EPSILON_SECONDS
    assert answer.fate is UNKNOWN
    assert answer.late is not None
    assert not answer.late.done()
    # Nobody else waits for a queue that is known to be stuck.
    started = monotonic()
    assert fates(transport.publish([event()], 5)) == [REFUSED]
    assert monotonic() - started < EPSILON_SECONDS
    rabbit_server.cont_signal()
    assert answer.late.result(timeout=20) is True
    wait_for(is_back(transport), 20, "publishing to work again")


@contextmanager
def standing_still(server: RabbitServer, url: str, queue: str = "parcels") -> Iterator[None]:
    """One quorum queue's leader hangs; the broker and all other queues go on."""
    process = f"'{url.rpartition('/')[2]}_{queue}'"
    server.rabbitmqctl("eval", f"sys:suspend({process}).")
    try:
        yield
    finally:
        server.rabbitmqctl("eval", f"sys:resume({process}).")


@pytest.mark.parametrize("size_bytes", [10, 20_000], ids=["many", "large"])
def test_a_queue_that_stands_still_holds_up_no_other(
    rabbit_server: RabbitServer, rabbit_vhost: str, size_bytes: int
) -> None:
    with open_transport(rabbit_vhost) as transport:
        assert fates(transport.publish([event(), event(queue="letters")], 10)) == [STORED] * 2
        with standing_still(rabbit_server, rabbit_vhost):
            count = 2 * engine.WINDOW_EVENTS
            events = [event(body=b"x" * size_bytes) for _ in range(count)]
            with ThreadPoolExecutor(1) as pool:
                stuck = pool.submit(transport.publish, events, 2)
                in_flight = transport._publisher._engines()._threaded_engine()
                wait_for(lambda: len(in_flight._in_flight) > 20, message="the first to be sent")
                for _ in range(5):
                    letters = [event(queue="letters") for _ in range(200)]
                    assert fates(transport.publish(letters, 2)) == [STORED] * 200
                answers = stuck.result()
            unknown = [answer for answer in answers if answer.fate is UNKNOWN]
            assert 0 < len(unknown) <= flight.FIRST_WINDOW_EVENTS
            assert len(answers) - len(unknown) == fates(answers).count(REFUSED)
            wait_for(lambda: not in_flight._waiting, message="what nobody waits for to be let go")
            # Now that it is known, nobody waits and nobody is sent there.
            started = monotonic()
            assert fates(transport.publish([event()], 5)) == [REFUSED]
            assert monotonic() - started < EPSILON_SECONDS
        assert all(answer.late and answer.late.result(timeout=20) for answer in unknown)
        wait_for(is_back(transport), 20, "publishing to work again")


def test_a_queue_that_comes_to_a_halt_in_a_burst_holds_up_the_others_for_a_moment(
    rabbit_server: RabbitServer, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_transport(rabbit_vhost) as transport:
        assert fates(transport.publish([event(), event(queue="letters")], 10)) == [STORED] * 2
        engines = transport._publisher._engines()
        clogged = engines._threaded_engine()
        with standing_still(rabbit_server, rabbit_vhost):
            # As wide as it is in a burst: more than the broker reads on over.
            monkeypatch.setattr(flight, "FIRST_WINDOW_EVENTS", 500)
            unknown = [answer.late for answer in transport.publish([event() for _ in range(600)], 1)]
            letters = [event(queue="letters") for _ in range(500)]
            wait_for(lambda: fates(transport.publish(letters, 2)) == [STORED] * 500, 20, "the others")
            assert engines._threaded_engine() is not clogged
            started = monotonic()
            assert fates(transport.publish([event()], 5)) == [REFUSED]
            assert monotonic() - started < EPSILON_SECONDS
        # Nothing of what was sent on the first connection is forgotten.
        assert [late.result(timeout=20) for late in unknown if late is not None] == [True] * 500
        wait_for(is_back(transport), 20, "the queue itself")
        wait_for(lambda: clogged.connection.state is State.CLOSED, message="the first connection to be left")


def test_a_queue_whose_events_were_never_sent_is_not_waited_for_again(
    rabbit_server: RabbitServer, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "FIRST_WINDOW_EVENTS", 0)
    with open_transport(rabbit_vhost) as transport:
        transport.check_queue(declaration())
        wait_for(
            lambda: "stopped confirming" in transport.publish([event()], 0.5)[0].problem,
            message="it to be known",
        )


def test_the_search_for_a_guilty_message_does_not_wait_for_a_queue_that_stands_still(
    start_rabbit_server: Callable[..., RabbitServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_rabbit_server(conf={"max_message_size": "100000"})
    monkeypatch.setattr(engine, "_TOO_LARGE", re.compile("never said"))
    with server.vhost() as vhost, open_transport(server.url(vhost)) as transport:
        assert fates(transport.publish([event(), event(queue="letters")], 10)) == [STORED] * 2
        with standing_still(server, server.url(vhost)):
            events = [event(n % 7, "letters") for n in range(20)] + [event(n) for n in range(20)]
            events[7] = event(queue="letters", body=b"x" * 100_001)
            answers = transport.publish(events, 2)
            assert answers[7].fate is not STORED
            assert STORED not in fates(answers[20:])
            # Sent, that is: a hanging leader may hold up the broker's side of a fresh channel for a while.
            assert fates(transport.publish([event(queue="letters")], 2)) != [REFUSED]


def test_connecting_to_a_frozen_broker_takes_no_longer_than_the_deadline(
    rabbit_vhost: str, rabbit_server: RabbitServer
) -> None:
    rabbit_server.stop_signal()
    with open_transport(rabbit_vhost) as transport:
        started = monotonic()
        assert fates(transport.publish([event()], 1)) == [REFUSED]
        assert monotonic() - started < 1 + EPSILON_SECONDS
        rabbit_server.cont_signal()
        wait_for(is_back(transport), 40, "the connection")


def test_a_network_that_swallows_everything_is_survived(
    rabbit_vhost: str, rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbit_server.port)
    with open_transport(proxy.through(rabbit_vhost)) as transport:
        assert fates(transport.publish([event()], 10)) == [STORED]
        proxy.pause()
        answers = transport.publish([event(n) for n in range(20)], 1)
        assert fates(answers) == [UNKNOWN] * 20
        proxy.resume()
        assert all(answer.late and answer.late.result(timeout=10) for answer in answers)
        proxy.cut()
        wait_for(is_back(transport), 20, "the connection")


def test_an_alarm_is_answered_at_once_and_ends_by_itself(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    rabbit_server.set_memory_alarm(True)
    # The broker tells of it when it is published to; that first event is in the broker's hands.
    started = monotonic()
    (first,) = transport.publish([event()], 10)
    assert first.fate is UNKNOWN
    assert "alarm" in first.problem
    assert monotonic() - started < 5
    started = monotonic()
    (second,) = transport.publish([event()], 10)
    assert second.fate is REFUSED
    assert "alarm" in second.problem
    assert monotonic() - started < EPSILON_SECONDS
    rabbit_server.set_memory_alarm(False)
    assert first.late is not None
    assert first.late.result(timeout=20) is True
    wait_for(is_back(transport), 20, "publishing to work again")


@pytest.mark.parametrize("tells_its_limit", [True, False], ids=["limit told", "bisection"])
def test_a_body_over_the_brokers_limit_fails_alone(
    start_rabbit_server: Callable[..., RabbitServer], monkeypatch: pytest.MonkeyPatch, tells_its_limit: bool
) -> None:
    server = start_rabbit_server(conf={"max_message_size": "100000"})
    if not tells_its_limit:
        monkeypatch.setattr(engine, "_TOO_LARGE", re.compile("never said"))
    with open_transport(server.url()) as transport:
        events = [event(n) for n in range(101)]
        events[30] = event(body=b"x" * 100_001)
        events[70] = event(body=b"x" * 200_000)
        answers = transport.publish(events, 30)
        assert [index for index, answer in enumerate(answers) if answer.fate is not STORED] == [30, 70]
        assert [answers[index].fate for index in (30, 70)] == [REFUSED, REFUSED]
        assert answers[30].event_at_fault
        assert "100000" in answers[30].problem
        assert fates(transport.publish([event(0), event(body=b"x" * 300_000)], 10)) == [STORED, REFUSED]
        # What was in flight beside it was sent again, under the same message ids: twice is allowed, never is not.
        received = Consumer(transport, declaration(prefetch=1000))
        count = transport.depth(declaration()).ready
        assert count is not None
        assert {each.body for each in events if len(each.body) < 99} == set(received.bodies(count))
        received.close()


def test_what_cannot_be_encoded_fails_alone(transport: RabbitTransport) -> None:
    good = event()
    answers = transport.publish(
        [good, event(message_id="x" * 300), event(headers={"n" * 300: "v"}), event(headers={"a": "\ud800"})],
        10,
    )
    assert fates(answers) == [STORED, REFUSED, REFUSED, REFUSED]
    assert [answer.event_at_fault for answer in answers] == [False, True, True, True]


def test_the_brokers_own_headers_are_not_sent_back_to_it(transport: RabbitTransport) -> None:
    assert fates(transport.publish([event(headers={"CC": "elsewhere", "x-death": "1"})], 10)) == [STORED]


def test_a_queue_of_other_arguments_refuses_its_own_events_alone(rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost, queue_type="classic") as before:
        before.check_queue(declaration("parcels", queue_type="classic"))
    with open_transport(rabbit_vhost) as transport:
        answers = transport.publish([event(), event(queue="letters"), event()], 10)
        assert fates(answers) == [REFUSED, STORED, REFUSED]
        assert "other arguments" in answers[0].problem
        assert "queue_admin migrate parcels" in answers[0].problem
        assert fates(transport.publish([event(), event(queue="letters")], 10)) == [REFUSED, STORED]


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
    answers = [transport.publish([event(n)], 10)[0] for n in range(7)]
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
            answers = [pool.submit(each.publish, [event(queue=queue)], 10) for each in (one, other)]
            assert [fates(answer.result()) for answer in answers] == [[STORED], [STORED]]


def test_a_wrong_password_is_said_and_tried_slowly(rabbit_vhost: str) -> None:
    with told_changes() as told, open_transport(rabbit_vhost.replace(":guest@", ":s3cret@")) as transport:
        (answer,) = transport.publish([event()], 10)
        assert answer.fate is REFUSED
        assert "refuses the login" in answer.problem
        assert "ACCESS_REFUSED" in answer.problem
        assert "s3cret" not in answer.problem
        assert fates(transport.publish([event()], 10)) == [REFUSED]
    assert [change["state"] for change in told] == ["away", "closed"]


def test_a_password_file_is_read_at_every_attempt(
    rabbit_vhost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerver.lib.transport.rabbitmq.connection.REFUSED_RETRY_SECONDS", 0.2)
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    address = parse_address(rabbit_vhost, secret)
    transport = RabbitTransport(address, declaration)
    try:
        assert fates(transport.publish([event()], 10)) == [REFUSED]
        secret.write_text("guest\n")
        wait_for(is_back(transport), 20, "the new password to be used")
    finally:
        transport.close()


def test_the_next_host_is_tried_at_once_when_the_first_is_dead(rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost.replace("@", "@127.0.0.1:1,")) as transport:
        started = monotonic()
        assert fates(transport.publish([event()], 10)) == [STORED]
        assert monotonic() - started < 3


def test_a_frozen_io_thread_is_noticed_and_gone_around(transport: RabbitTransport) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    thaw = threading.Event()
    connection = transport._publisher._engines()._threaded_engine().connection
    connection.call_soon(lambda: thaw.wait(60))
    try:
        started = monotonic()
        assert fates(transport.publish([event(n) for n in range(50)], 10)) == [STORED] * 50
        assert monotonic() - started < 5
        started = monotonic()
        assert fates(transport.publish([event(n) for n in range(50)], 10)) == [STORED] * 50
        assert (
            monotonic() - started < EPSILON_SECONDS
        )  # known to be frozen, and the other connection is there
        assert transport.depth(declaration()).ready == 101
    finally:
        thaw.set()
    wait_for(lambda: not connection.is_frozen(), message="the thaw")
    assert fates(transport.publish([event()], 10)) == [STORED]
    assert transport.depth(declaration()).ready == 102


def test_the_way_around_survives_a_restart_of_the_broker(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    thaw = threading.Event()
    transport._publisher._engines()._threaded_engine().connection.call_soon(lambda: thaw.wait(60))
    try:
        assert fates(transport.publish([event()], 10)) == [STORED]
        rabbit_server.kill()
        started = monotonic()
        assert fates(transport.publish([event()], 10)) == [REFUSED]
        assert monotonic() - started < EPSILON_SECONDS
        rabbit_server.start()
        wait_for(is_back(transport), 20, "the way around to work again")
    finally:
        thaw.set()


def test_close_while_events_are_in_flight_answers_their_publishers(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], 10)) == [STORED]
    rabbit_server.stop_signal()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.publish, [event()], 30)
        in_flight = transport._publisher._engines()._threaded_engine()
        wait_for(lambda: len(in_flight._in_flight) == 1, message="it to be sent")
        transport._publisher.close(0.2)
        assert fates(waiting.result(timeout=10)) == [UNKNOWN]
    rabbit_server.cont_signal()

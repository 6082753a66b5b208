"""A broker that is away, frozen, in alarm or locked, and a network that breaks: every answer in time, and true."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.rabbit import (
    AMPLE_SECONDS,
    EPSILON_SECONDS,
    declaration,
    event,
    fates,
    is_back,
    open_transport,
    told_changes,
    waiting_for_nothing,
)
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.clock import monotonic
from zerver.lib.transport.base import Fate
from zerver.lib.transport.rabbitmq import RabbitTransport, knowledge, topology, turned
from zerver.lib.transport.rabbitmq.address import parse_address

STORED, REFUSED, UNKNOWN = Fate.STORED, Fate.REFUSED, Fate.UNKNOWN


@pytest.fixture
def transport(rabbit_vhost: str) -> Iterator[RabbitTransport]:
    """Classic queues: a quorum queue that was declared just before the broker is killed is lost (3.10)."""
    with open_transport(rabbit_vhost, queue_type="classic") as opened:
        yield opened


def test_a_killed_broker_costs_no_waiting_and_comes_back_by_itself(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    rabbit_server.kill()
    wait_for(lambda: transport.is_away, message="the loss to be noticed")
    with waiting_for_nothing():
        (answer,) = transport.publish([event()], AMPLE_SECONDS)
    assert answer.fate is REFUSED
    assert "cannot be reached" in answer.problem
    rabbit_server.start()
    wait_for(is_back(transport), 30, "publishing to work again")


def test_events_in_flight_when_the_broker_dies_are_in_doubt_and_resolved_as_such(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    rabbit_server.stop_signal()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.publish, [event(), event()], AMPLE_SECONDS)
        engine = transport._publisher.of_process().engine()
        wait_for(lambda: len(engine.lines["parcels"]._in_flight) == 2, message="both to be sent")
        rabbit_server.kill()
        with waiting_for_nothing():
            answers = waiting.result()
    assert fates(answers) == [UNKNOWN, UNKNOWN]
    assert [answer.late and answer.late.result(AMPLE_SECONDS) for answer in answers] == [False, False]


def test_a_broker_that_was_never_there_takes_no_longer_than_it_takes_to_find_out() -> None:
    with open_transport("amqp://127.0.0.1:1/") as transport:
        with waiting_for_nothing():
            (answer,) = transport.publish([event()], AMPLE_SECONDS)
        assert answer.fate is REFUSED
        assert transport.is_away


def test_a_frozen_broker_is_waited_for_no_longer_than_the_deadline_and_a_late_confirm_is_told(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    rabbit_server.stop_signal()
    started = monotonic()
    (answer,) = transport.publish([event()], 1)
    assert 0.9 < monotonic() - started < 1 + EPSILON_SECONDS
    assert answer.fate is UNKNOWN
    assert answer.late is not None
    assert not answer.late.done()
    # Nobody else waits for a queue that is known to be stuck.
    with waiting_for_nothing():
        assert fates(transport.publish([event()], AMPLE_SECONDS)) == [REFUSED]
    rabbit_server.cont_signal()
    assert answer.late.result(AMPLE_SECONDS) is True
    wait_for(is_back(transport), 20, "publishing to work again")


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
        assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
        proxy.pause()
        answers = transport.publish([event(n) for n in range(20)], 2)
        assert fates(answers) == [UNKNOWN] * 20
        proxy.resume()
        assert all(answer.late and answer.late.result(AMPLE_SECONDS) for answer in answers)
        proxy.cut()
        wait_for(is_back(transport), 20, "the connection")


def test_an_alarm_is_answered_at_once_and_ends_by_itself(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    rabbit_server.set_memory_alarm(True)
    # The broker tells of it when it is published to; that first event is in the broker's hands.
    with waiting_for_nothing():
        (first,) = transport.publish([event()], AMPLE_SECONDS)
    assert first.fate is UNKNOWN
    assert "alarm" in first.problem
    with waiting_for_nothing():
        (second,) = transport.publish([event()], AMPLE_SECONDS)
    assert second.fate is REFUSED
    assert "alarm" in second.problem
    rabbit_server.set_memory_alarm(False)
    assert first.late is not None
    assert first.late.result(AMPLE_SECONDS) is True
    wait_for(is_back(transport), 20, "publishing to work again")


def test_a_wrong_password_is_said_and_tried_slowly(rabbit_vhost: str) -> None:
    with told_changes() as told, open_transport(rabbit_vhost.replace(":guest@", ":s3cret@")) as transport:
        (answer,) = transport.publish([event()], AMPLE_SECONDS)
        assert answer.fate is REFUSED
        assert "refuses the login" in answer.problem
        assert "ACCESS_REFUSED" in answer.problem
        assert "s3cret" not in answer.problem
        assert fates(transport.publish([event()], AMPLE_SECONDS)) == [REFUSED]
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
        assert fates(transport.publish([event()], AMPLE_SECONDS)) == [REFUSED]
        secret.write_text("guest\n")
        wait_for(is_back(transport), 20, "the new password to be used")
    finally:
        transport.close()


def test_the_next_host_is_tried_at_once_when_the_first_is_dead(rabbit_vhost: str) -> None:
    with open_transport(rabbit_vhost.replace("@", "@127.0.0.1:1,")) as transport, waiting_for_nothing():
        assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]


def test_a_frozen_io_thread_is_noticed_and_gone_around(transport: RabbitTransport) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    thaw = threading.Event()
    connection = transport._publisher.of_process().engine().connection
    connection.call_soon(lambda: thaw.wait(60))
    try:
        for _ in range(2):  # at the second time it is known to be frozen, and the other connection is there
            with waiting_for_nothing():
                answers = transport.publish([event(n) for n in range(50)], AMPLE_SECONDS)
            assert fates(answers) == [STORED] * 50
            assert connection.is_frozen()
        assert transport.depth(declaration()).ready == 101
    finally:
        thaw.set()
    wait_for(lambda: not connection.is_frozen(), message="the thaw")
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    assert transport.depth(declaration()).ready == 102


def test_the_way_around_survives_a_restart_of_the_broker(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    thaw = threading.Event()
    transport._publisher.of_process().engine().connection.call_soon(lambda: thaw.wait(60))
    try:
        assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
        rabbit_server.kill()
        with waiting_for_nothing():
            assert fates(transport.publish([event()], AMPLE_SECONDS)) == [REFUSED]
        rabbit_server.start()
        wait_for(is_back(transport), 20, "the way around to work again")
    finally:
        thaw.set()


def test_the_way_around_is_given_up_when_the_thread_goes_again(
    transport: RabbitTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two calls nobody sends heartbeats on it."""
    monkeypatch.setattr(turned, "DISUSED_SECONDS", 0.0)
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    connection = transport._publisher.of_process().engine().connection
    thaw = threading.Event()
    connection.call_soon(lambda: thaw.wait(60))
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    way_around = transport._publisher.of_process()._turned
    assert way_around._engine is not None
    thaw.set()
    wait_for(lambda: not connection.is_frozen(), message="the thaw")
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    assert way_around._engine is None


def test_a_process_that_can_begin_no_thread_is_answered_all_the_same(
    transport: RabbitTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller stores a row then; once threads can be begun, the broker takes events."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        (answer,) = transport.publish([event()], 5)
    assert answer.fate is REFUSED
    assert "can't start new thread" in answer.problem
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]


def test_a_declaration_that_is_answered_too_late_costs_no_connection(
    rabbit_vhost: str,
    rabbit_server: RabbitServer,
    tcp_proxy: Callable[[int], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topology, "DECLARE_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(topology, "MEMORY_SECONDS", 0.0)
    monkeypatch.setattr(knowledge, "MEMORY_SECONDS", 0.0)
    proxy = tcp_proxy(rabbit_server.port)
    with open_transport(proxy.through(rabbit_vhost)) as transport, told_changes() as told:
        assert fates(transport.publish([event(queue="letters")], AMPLE_SECONDS)) == [STORED]
        proxy.set_latency(1.0)
        (answer,) = transport.publish([event()], AMPLE_SECONDS)
        assert "not declared within" in answer.problem
        proxy.set_latency(0.0)
        wait_for(is_back(transport), message="a declaration in time")
    assert [change["state"] for change in told] == ["open"]


def test_close_while_events_are_in_flight_answers_their_publishers(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    assert fates(transport.publish([event()], AMPLE_SECONDS)) == [STORED]
    rabbit_server.stop_signal()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.publish, [event()], AMPLE_SECONDS)
        engine = transport._publisher.of_process().engine()
        wait_for(lambda: len(engine.lines["parcels"]._in_flight) == 1, message="it to be sent")
        transport._publisher.close(0.2)
        with waiting_for_nothing():
            assert fates(waiting.result()) == [UNKNOWN]
    rabbit_server.cont_signal()

"""What operators do to queues, on a real broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pika
import pytest

from tests.integration.rabbit import (
    AMPLE_SECONDS,
    Consumer,
    declaration,
    event,
    fates,
    open_transport,
    publish,
    wait_for_depth,
)
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.clock import monotonic
from zerver.lib.errors import AuthenticationRefused, QueueMismatch, QueueNotEmpty, TransportUnavailable
from zerver.lib.transport.base import Depth, Fate
from zerver.lib.transport.rabbitmq import RabbitTransport, admin, questions, session, sort
from zerver.lib.transport.rabbitmq.connection import BrokerConnection
from zerver.lib.transport.rabbitmq.session import BrokerSession, Question


@pytest.fixture
def transport(rabbit_vhost: str) -> Iterator[RabbitTransport]:
    with open_transport(rabbit_vhost) as opened:
        yield opened


def test_purging_tells_how_many_and_spares_what_is_in_hand(transport: RabbitTransport) -> None:
    assert transport.purge(declaration()) == 0
    publish(transport, 10)
    consumer = Consumer(transport, declaration(prefetch=3))
    consumer.take(3)
    wait_for(lambda: transport.depth(declaration()).ready == 7, message="three in hand")
    assert transport.purge(declaration()) == 7
    consumer.close()
    wait_for(lambda: transport.depth(declaration()).ready == 3, message="three to be back")


def test_depth_knows_only_what_can_be_known(
    transport: RabbitTransport, rabbit_vhost: str, rabbit_server: RabbitServer
) -> None:
    assert transport.depth(declaration()) == Depth(ready=0, consumers=0)
    publish(transport, 2)
    consumer = Consumer(transport)
    consumer.take(2)
    wait_for(lambda: transport.depth(declaration()) == Depth(ready=0, consumers=1), message="both in hand")
    with open_transport(rabbit_vhost, rabbit_server.management_url) as knowing:
        wait_for(lambda: knowing.depth(declaration()).unacked == 2, 20, "the management API to tell")
        names = {queue["name"] for queue in knowing.admin.broker_queues() or ()}
        assert names == {"parcels", "zerver_dead"}
    with open_transport(rabbit_vhost, "http://127.0.0.1:1") as mistaken:
        assert mistaken.depth(declaration()).unacked is None
        with pytest.raises(TransportUnavailable, match="management API"):
            mistaken.admin.broker_queues()
    assert transport.admin.broker_queues() is None
    consumer.close()


def test_a_queue_that_exists_otherwise_is_told_by_what_differs(transport: RabbitTransport) -> None:
    transport.check_queue(declaration())
    transport.check_queue(declaration())
    with pytest.raises(QueueMismatch) as caught:
        transport.check_queue(declaration(queue_type="classic"))
    assert caught.value.queue == "parcels"
    assert "broker has" in caught.value.difference
    assert "code declares none" in caught.value.difference


def test_a_queue_that_holds_events_is_not_deleted_by_accident(transport: RabbitTransport) -> None:
    publish(transport, 2)
    with pytest.raises(QueueNotEmpty):
        transport.admin.delete_queue("parcels")
    transport.admin.delete_queue("parcels", if_empty=False)
    transport.admin.delete_queue("parcels")
    assert transport.depth(declaration()).ready == 0


@pytest.fixture
def hung(transport: RabbitTransport, rabbit_vhost: str, rabbit_server: RabbitServer) -> Iterator[None]:
    """The quorum queue ``parcels``: 5 events, and a leader that answers nobody."""
    publish(transport, 5)
    wait_for(lambda: transport.depth(declaration()).ready == 5, message="all to be counted")
    rabbit_server.suspend_queue(rabbit_vhost, "parcels")
    yield
    rabbit_server.resume_queue(rabbit_vhost, "parcels")


def test_a_queue_whose_leader_does_not_answer_is_not_taken_for_empty(
    hung: None,
    transport: RabbitTransport,
    rabbit_vhost: str,
    rabbit_server: RabbitServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport.check_queue(declaration("letters"))
    for ask in (
        lambda: transport.admin.is_empty("parcels"),
        lambda: transport.admin.delete_queue("parcels", if_empty=True),
        lambda: transport.admin.move("parcels", "letters"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(admin, "ANSWER_SECONDS", 2.0)
            with pytest.raises(TransportUnavailable):
                ask()
    rabbit_server.resume_queue(rabbit_vhost, "parcels")
    wait_for(lambda: transport.depth(declaration()).ready == 5, message="all to be there still")
    assert transport.admin.is_empty("letters")


def test_looking_whether_a_queue_is_empty_takes_nothing_out_of_it(transport: RabbitTransport) -> None:
    assert transport.admin.is_empty("parcels")
    publish(transport, 1)
    consumer = Consumer(transport, declaration(prefetch=1))
    [held] = consumer.take(1)
    publish(transport, 1)
    assert not transport.admin.is_empty("parcels")
    consumer.lane.done([held])
    assert len(consumer.bodies(1)) == 1
    consumer.close()
    assert transport.admin.is_empty("parcels")


def test_a_message_that_the_count_has_missed_is_found_and_comes_back(
    transport: RabbitTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(transport, 1)
    wait_for(lambda: transport.depth(declaration()).ready == 1, message="it to be counted")

    nothing = SimpleNamespace(method=SimpleNamespace(message_count=0))
    asked_of = questions.ask_of
    told: list[object] = []

    def ask_of(session: BrokerSession, queue: str, question: Question) -> object:
        # The first question is for the count.
        told.append(nothing if not told else asked_of(session, queue, question))
        return told[-1]

    monkeypatch.setattr(questions, "ask_of", ask_of)
    assert not transport.admin.is_empty("parcels")
    monkeypatch.undo()
    consumer = Consumer(transport)
    [back] = consumer.take(1)
    assert back.redelivered
    consumer.close()


def test_a_quorum_queue_that_has_gone_in_the_meantime_is_deleted_already(transport: RabbitTransport) -> None:
    assert transport.admin._look_and_delete("gone") == 0


def test_the_depths_of_many_queues_come_over_one_connection(
    transport: RabbitTransport, rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    names = [f"q{n}" for n in range(120)]
    publish(transport, 2, queue="q3")
    publish(transport, 1, queue="q119")
    for name, count in (("q3", 2), ("q119", 1)):
        wait_for_depth(transport, declaration(name), ready=count)
    with told_connections() as opened:
        found = transport.depths([declaration(name) for name in names])
    assert len(opened) == 1
    assert {name: depth.ready for name, depth in found.items() if depth.ready} == {"q3": 2, "q119": 1}
    assert found["q7"] == Depth(ready=0, consumers=0)
    assert list(found) == names
    consumer = Consumer(transport, declaration("q3"))
    consumer.take(2)
    with open_transport(rabbit_vhost, rabbit_server.management_url) as knowing:
        wait_for(
            lambda: knowing.depths([declaration("q3")])["q3"].unacked == 2, 20, "the management API to tell"
        )
    consumer.close()


def test_a_queue_that_is_somebodys_own_costs_its_own_depth_alone(
    transport: RabbitTransport, rabbit_vhost: str
) -> None:
    publish(transport, 2)
    wait_for_depth(transport, ready=2)
    connection = pika.BlockingConnection(pika.URLParameters(rabbit_vhost))
    connection.channel().queue_declare("letters", exclusive=True)
    found = transport.depths([declaration("letters"), declaration()])
    assert found == {"letters": Depth(), "parcels": Depth(ready=2, consumers=0)}
    connection.close()


@contextmanager
def told_connections() -> Iterator[list[BrokerConnection]]:
    """The connections that are made meanwhile."""
    made: list[BrokerConnection] = []

    class Counted(BrokerConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append(self)
            super().__init__(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "BrokerConnection", Counted)
        yield made


def test_events_move_with_all_that_was_said_of_them(transport: RabbitTransport) -> None:
    sent = [event(n, attempt=2, headers={"traceparent": "x"}) for n in range(700)]
    assert fates(transport.publish(sent, AMPLE_SECONDS)) == [Fate.STORED] * 700
    transport.check_queue(declaration("letters", queue_type="classic"))
    seen: list[int] = []
    assert transport.admin.move("parcels", "letters", limit=250) == 250
    assert transport.admin.move("parcels", "letters", progress=seen.append) == 450
    assert seen == sorted(seen)
    assert transport.admin.move("parcels", "letters") == 0
    assert transport.depth(declaration()).ready == 0
    consumer = Consumer(transport, declaration("letters", queue_type="classic"))
    received = [delivery.event for delivery in consumer.take(100)]
    assert {each.message_id for each in received} <= {each.message_id for each in sent}
    assert {(each.attempt, each.headers["traceparent"]) for each in received} == {(2, "x")}
    consumer.close()


def test_a_move_that_cannot_be_stored_loses_nothing(transport: RabbitTransport) -> None:
    publish(transport, 20)
    with pytest.raises(TransportUnavailable, match="no queue 'nowhere'"):
        transport.admin.move("parcels", "nowhere")
    wait_for(lambda: transport.depth(declaration()).ready == 20, message="all to be back")


def test_a_foreign_message_is_moved_as_it_is(transport: RabbitTransport, rabbit_vhost: str) -> None:
    for name in ("parcels", "letters"):
        transport.check_queue(declaration(name))
    connection = pika.BlockingConnection(pika.URLParameters(rabbit_vhost))
    channel = connection.channel()
    told = pika.BasicProperties(headers={"n": [1, {"a": None}]}, content_type="text/plain", user_id="guest")
    channel.basic_publish("", "parcels", b"\x00", told)
    assert transport.admin.move("parcels", "letters") == 1
    _, properties, body = channel.basic_get("letters", auto_ack=True)
    assert (body, properties.headers["n"], properties.content_type) == (
        b"\x00",
        [1, {"a": None}],
        "text/plain",
    )
    connection.close()


def test_a_wrong_password_and_a_missing_vhost_are_told(rabbit_vhost: str) -> None:
    with (
        open_transport(rabbit_vhost.replace(":guest@", ":wrong@")) as locked_out,
        pytest.raises(AuthenticationRefused, match="QUEUE_PASSWORD_FILE"),
    ):
        locked_out.check_queue(declaration())
    with (
        open_transport(rabbit_vhost + "-which-is-not") as lost,
        pytest.raises(AuthenticationRefused, match=r"vhost.*not found|access"),
    ):
        lost.depth(declaration())


def test_without_the_right_to_declare_it_is_enough_that_the_queue_is_there(
    rabbit_vhost: str, rabbit_server: RabbitServer, transport: RabbitTransport
) -> None:
    vhost = rabbit_vhost.rpartition("/")[2]
    rabbit_server.api("PUT", "/users/limited", {"password": "limited", "tags": ""})
    rabbit_server.api(
        "PUT", f"/permissions/{vhost}/limited", {"configure": "^$", "write": ".*", "read": ".*"}
    )
    transport.check_queue(declaration())
    with open_transport(rabbit_vhost.replace("guest:guest", "limited:limited")) as limited:
        limited.check_queue(declaration())
        assert fates(limited.publish([event(), event(queue="letters")], AMPLE_SECONDS)) == [
            Fate.STORED,
            Fate.REFUSED,
        ]
        consumer = Consumer(limited)
        assert len(consumer.bodies(1)) == 1
        consumer.close()
        with pytest.raises(TransportUnavailable, match="letters"):
            limited.check_queue(declaration("letters"))


def test_questions_to_a_dead_or_frozen_broker_end_in_time(
    rabbit_vhost: str, rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "ANSWER_SECONDS", 0.5)
    with (
        open_transport("amqp://127.0.0.1:1/") as nowhere,
        pytest.raises(TransportUnavailable, match="refused"),
    ):
        nowhere.depth(declaration())
    rabbit_server.stop_signal()
    with open_transport(rabbit_vhost) as frozen:
        started = monotonic()
        with pytest.raises(TransportUnavailable, match="did not come"):
            frozen.depth(declaration())
        assert monotonic() - started < 30
    rabbit_server.cont_signal()


def test_questions_leave_no_connection_and_no_descriptor_behind(transport: RabbitTransport) -> None:
    transport.depth(declaration())

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(20):
        transport.depth(declaration())
    assert descriptors() <= before


def test_a_fork_uses_nothing_of_its_parents(
    transport: RabbitTransport, in_child: Callable[[Callable[[], object]], None]
) -> None:
    publish(transport, 1)
    consumer = Consumer(transport)
    assert len(consumer.bodies(1)) == 1

    def publish_and_consume() -> None:
        publish(transport, 1, queue="letters")
        own = Consumer(transport, declaration("letters"))
        assert len(own.bodies(1)) == 1
        own.close()
        transport.close()

    in_child(publish_and_consume)
    publish(transport, 1)
    assert len(consumer.bodies(1)) == 1
    consumer.close()


def test_the_broker_sees_a_process_die_though_its_fork_lives_on(
    transport: RabbitTransport, rabbit_vhost: str, in_child: Callable[..., None]
) -> None:
    """A child that kept the socket open would keep its parent's unsettled events from everybody."""
    publish(transport, 3)

    def take_fork_and_die() -> None:
        with open_transport(rabbit_vhost) as own:
            Consumer(own).take(3)
            if os.fork() == 0:
                wait_for(lambda: transport.depth(declaration()).ready == 3, 10, "the events to be back")
                os._exit(0)
            os._exit(0)

    in_child(take_fork_and_die)
    wait_for(lambda: transport.depth(declaration()).ready == 3, 10, "the events to be back")


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], None]:
    """Run something in a forked child; its failure is the test's."""

    def run(work: Callable[[], object]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException as error:
                os.write(2, f"child: {error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    return run


def test_a_channel_that_the_broker_closes_gives_back_what_stays_as_well(
    transport: RabbitTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels: list[Any] = []
    open_channel = BrokerSession.channel

    def opened(self: BrokerSession) -> Any:
        channels.append(open_channel(self))
        return channels[-1]

    monkeypatch.setattr(BrokerSession, "channel", opened)
    monkeypatch.setattr(sort, "PREFETCH", 5)
    publish(transport, 10)
    # The second that takes, over an acknowledgement of nothing.
    done = transport.admin.sort(
        "parcels", lambda _: "parcels", lambda _: channels[2].basic_ack(99), lambda _: None
    )
    assert (done.moved, done.stayed) == (0, 10)
    wait_for_depth(transport, ready=10)

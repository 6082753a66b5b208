"""Lanes against a real broker: what was not settled comes again, what was settled does not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from tests.integration.rabbit import Consumer, declaration, event, fates, open_transport, told_changes
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.event import Event
from zerver.lib.transport.base import Depth, Fate
from zerver.lib.transport.rabbitmq import RabbitTransport


@pytest.fixture
def transport(rabbit_vhost: str, rabbit_server: RabbitServer) -> Iterator[RabbitTransport]:
    with open_transport(rabbit_vhost, rabbit_server.management_url) as opened:
        yield opened


def publish(transport: RabbitTransport, count: int, **fields: Any) -> list[Event]:
    events = [event(n, **fields) for n in range(count)]
    assert fates(transport.publish(events, 30)) == [Fate.STORED] * count
    return events


def wait_for_depth(transport: RabbitTransport, **wanted: int) -> None:
    """Quorum counts and the management API lag a little."""

    def depth() -> Depth:
        return transport.depth(declaration())

    def is_as_wanted() -> bool:
        seen = depth()
        return all(getattr(seen, name) == value for name, value in wanted.items())

    wait_for(is_as_wanted, 20, lambda: f"{wanted}; the broker says {depth()}")


def test_an_event_arrives_with_all_that_was_said_of_it(transport: RabbitTransport) -> None:
    consumer = Consumer(transport)
    sent = event(7, attempt=3, headers={"traceparent": "00-abc-def-01"})
    assert fates(transport.publish([sent], 10)) == [Fate.STORED]
    (delivery,) = consumer.take(1)
    received = delivery.event
    assert (received.queue, received.message_id, received.body) == ("parcels", sent.message_id, sent.body)
    assert (received.attempt, received.published_at_ms) == (3, sent.published_at_ms)
    assert received.headers == {"traceparent": "00-abc-def-01", "x-version": "1"}
    assert not delivery.redelivered
    consumer.lane.done([delivery])
    consumer.close()
    wait_for_depth(transport, ready=0)


def test_what_was_taken_and_not_settled_comes_again_as_redelivered(transport: RabbitTransport) -> None:
    publish(transport, 5)
    first = Consumer(transport)
    taken = first.take(5)
    first.lane.done(taken[1:3])
    first.close()
    second = Consumer(transport)
    again = second.take(3)
    assert {delivery.event.body for delivery in again} == {b'{"n":0}', b'{"n":3}', b'{"n":4}'}
    assert all(delivery.redelivered for delivery in again)
    second.close()


def test_closing_returns_what_was_never_taken_and_loses_no_acknowledgement(
    transport: RabbitTransport,
) -> None:
    publish(transport, 100)
    consumer = Consumer(transport)
    consumer.lane.done(consumer.take(37))
    consumer.close()
    assert consumer.lane.take(10) == []
    wait_for_depth(transport, ready=63, consumers=0)


def test_acknowledgements_travel_together_and_never_wait_long(
    transport: RabbitTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, bool]] = []
    real = pika.channel.Channel.basic_ack

    def ack(channel: Any, delivery_tag: int = 0, multiple: bool = False) -> None:
        sent.append((delivery_tag, multiple))
        real(channel, delivery_tag, multiple)

    monkeypatch.setattr(pika.channel.Channel, "basic_ack", ack)
    publish(transport, 80)
    consumer = Consumer(transport)
    deliveries = consumer.take(80)
    for delivery in deliveries[:64]:
        consumer.lane.done([delivery])
    consumer.lane.done(deliveries[70:72])  # out of order, so not to be taken along by the others
    consumer.lane.done(deliveries[64:66])
    wait_for_depth(transport, unacked=12)
    outstanding = set(range(1, 81))
    for tag, multiple in sent:
        assert tag in outstanding
        outstanding -= set(range(1, tag + 1)) if multiple else {tag}
    assert outstanding == {*range(67, 71), *range(73, 81)}
    assert {(71, False), (72, False)} <= set(sent)
    assert len(sent) < 20
    consumer.close()
    wait_for_depth(transport, ready=12)


def test_released_events_come_again_while_others_stay_in_hand(transport: RabbitTransport) -> None:
    publish(transport, 3)
    consumer = Consumer(transport)
    one, two, three = consumer.take(3)
    consumer.lane.release([two])
    (again,) = consumer.take(1)
    assert again.event == two.event
    assert not again.redelivered, "nobody died of what this process gave back"
    assert consumer.lane.renew(one, 60)
    consumer.lane.done([one, three, again])
    consumer.close()
    wait_for_depth(transport, ready=0)


def test_a_paused_lane_keeps_what_is_in_hand_and_gets_no_more(rabbit_vhost: str) -> None:
    # Classic: a quorum queue counts a cancelled consumer until it has settled everything.
    with open_transport(rabbit_vhost, queue_type="classic") as transport:
        consumer = Consumer(transport, declaration(queue_type="classic"))
        publish(transport, 3)
        wait_for_depth(transport, ready=0, consumers=1)
        consumer.lane.pause()
        wait_for_depth(transport, consumers=0)
        publish(transport, 4)
        assert len(consumer.take(3)) == 3
        assert consumer.lane.take(10) == []
        consumer.lane.resume()
        assert len(consumer.take(4)) == 4
        consumer.close()
        wait_for_depth(transport, ready=7)


def test_pausing_makes_nobody_a_suspect_and_holds_a_bounded_number(rabbit_vhost: str) -> None:
    # Classic: what is between a quorum queue and the broker's channel goes back when a consumer is cancelled.
    with open_transport(rabbit_vhost, queue_type="classic") as transport:
        publish(transport, 3000)
        consumer = Consumer(transport, declaration(queue_type="classic", prefetch=200))
        seen: list[bytes] = []
        suspects = 0
        most_in_hand = 0
        while len(seen) < 3000:
            deliveries = consumer.take(min(50, 3000 - len(seen)))
            consumer.lane.pause()
            consumer.lane.resume()
            most_in_hand = max(most_in_hand, len(consumer.lane._ledger))
            suspects += sum(delivery.redelivered for delivery in deliveries)
            seen += [delivery.event.body for delivery in deliveries]
            consumer.lane.done(deliveries)
        assert suspects == 0
        assert len(set(seen)) == 3000
        assert most_in_hand <= 300
        consumer.close()


def test_pausing_again_and_again_with_full_hands_fetches_no_more(transport: RabbitTransport) -> None:
    publish(transport, 60)
    consumer = Consumer(transport, declaration(prefetch=10))
    taken = consumer.take(10)
    for _ in range(5):
        consumer.lane.pause()
        consumer.lane.resume()
    consumer.lane.done(taken[:4])  # six of ten in hand: still too many to begin to fetch
    wait_for_depth(transport, ready=50, unacked=6)
    assert consumer.lane.take(10) == []
    consumer.lane.done(taken[4:])
    assert len(consumer.take(10)) == 10
    consumer.close()


def test_no_more_than_the_prefetch_is_held(rabbit_vhost: str, rabbit_server: RabbitServer) -> None:
    with open_transport(rabbit_vhost, rabbit_server.management_url) as transport:
        publish(transport, 50)
        consumer = Consumer(transport, declaration(prefetch=7))
        taken = consumer.take(7)
        wait_for_depth(transport, ready=43, unacked=7)
        consumer.lane.done(taken)
        consumer.take(7)
        consumer.close()


def test_after_a_lost_connection_everything_unsettled_comes_again_and_nothing_else(
    rabbit_vhost: str, rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbit_server.port)
    with open_transport(rabbit_vhost) as publisher, open_transport(proxy.through(rabbit_vhost)) as transport:
        publish(publisher, 200)
        consumer = Consumer(transport)
        settled = consumer.take(50)
        consumer.lane.done(settled)
        # The prefetch is 100: the broker hands out another fifty when it has the acknowledgements, and no sooner.
        wait_for_depth(publisher, ready=50)
        in_hand = consumer.take(20)
        proxy.cut()
        wait_for(lambda: not consumer.lane.renew(in_hand[0], 1), message="the loss to be noticed")
        consumer.lane.done(in_hand)  # void: they come again
        received = consumer.bodies(90) + consumer.bodies(60)
        assert sorted(received) == sorted(
            {b'{"n":%d}' % n for n in range(200)} - {d.event.body for d in settled}
        )
        consumer.close()
        wait_for(lambda: publisher.depth(declaration()).ready == 0, message="an empty queue")


def test_a_restarted_broker_is_consumed_from_again(rabbit_vhost: str, rabbit_server: RabbitServer) -> None:
    with open_transport(rabbit_vhost, queue_type="classic") as transport:
        consumer = Consumer(transport, declaration(queue_type="classic"))
        publish(transport, 3)
        assert len(consumer.take(3)) == 3
        with told_changes() as told:
            rabbit_server.restart()
            assert len(consumer.take(3, 40)) == 3
        assert [change["state"] for change in told if change["role"] == "worker"] == ["away", "open"]
        consumer.close()


def test_a_deleted_queue_is_declared_anew_and_consumed_from(transport: RabbitTransport) -> None:
    publish(transport, 1)
    consumer = Consumer(transport)
    assert len(consumer.bodies(1)) == 1
    with told_changes() as told:
        transport.admin.delete_queue("parcels", if_empty=False)
        wait_for(lambda: any("cancelled" in change["problem"] for change in told), message="it to be told")
        wait_for(lambda: fates(transport.publish([event(1)], 5)) == [Fate.STORED], message="a queue")
        assert b'{"n":1}' in consumer.bodies(1)
    consumer.close()


def test_a_channel_that_the_broker_closes_is_opened_anew(
    start_rabbit_server: Callable[..., RabbitServer],
) -> None:
    server = start_rabbit_server(conf={"consumer_timeout": "2000"})
    with open_transport(server.url()) as transport:
        publish(transport, 2)
        consumer = Consumer(transport)
        held, other = consumer.take(2)
        consumer.lane.done([other])
        with told_changes() as told:
            (again,) = consumer.take(1, 60)
        assert again.event == held.event
        assert again.redelivered
        problem = "the broker's consumer_timeout is 2 s: lower timeout_seconds=30 of this queue"
        assert any(problem in change["problem"] for change in told)
        # From now on what nobody begins is given back in time, by us.
        publish(transport, 1)
        with told_changes() as told:
            (unstarted,) = consumer.take(1)
            assert not unstarted.redelivered
            consumer.lane.done([again])
            publish(transport, 2)
            wait_for(lambda: consumer.lane._prefetch < 100, 20, "the buffer to be given back")
        assert told == []
        consumer.lane.done([unstarted])
        consumer.lane.done(consumer.take(2))
        assert not consumer.lane.renew(held, 1)
        consumer.lane.done([held])
        consumer.close()
        wait_for_depth(transport, ready=0)


def test_events_that_nobody_takes_are_handed_back(transport: RabbitTransport) -> None:
    publish(transport, 3)
    slow = transport.open_lane(declaration(), "slow", buffer_seconds=0.4)
    slow.start(lambda: None)
    wait_for_depth(transport, unacked=3)
    slow.pause()
    wait_for_depth(transport, ready=3, unacked=0)
    slow.close(10)


def test_what_this_process_handed_back_is_no_suspect_and_it_asks_for_less(transport: RabbitTransport) -> None:
    publish(transport, 40)
    consumer = Consumer(transport, declaration(prefetch=40), buffer_seconds=1.0)
    taken = consumer.take(1)
    wait_for(lambda: consumer.lane._prefetch < 40, message="the others to go stale")
    while len(taken) < 40:
        taken += consumer.take(1)
        consumer.lane.done(taken[-1:])
    assert not any(delivery.redelivered for delivery in taken)
    wait_for(lambda: consumer.lane._prefetch == 40, 20, "it to ask for more, now that all is begun in time")
    consumer.lane.done(taken[:1])
    consumer.close()
    wait_for_depth(transport, ready=0)


def test_a_queue_of_other_arguments_is_told_and_leaves_the_other_lanes_alone(
    rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerver.lib.transport.rabbitmq.lane.MEMORY_SECONDS", 0.3)
    monkeypatch.setattr("zerver.lib.transport.rabbitmq.topology.MEMORY_SECONDS", 0.1)
    with open_transport(rabbit_vhost) as transport:
        transport.check_queue(declaration(queue_type="classic"))
        with told_changes() as told:
            blocked, fine = Consumer(transport), Consumer(transport, declaration("letters"))
            assert fates(transport.publish([event(queue="letters")], 10)) == [Fate.STORED]
            assert len(fine.bodies(1)) == 1
            wait_for(lambda: "other arguments" in blocked.lane.problem, message="the mismatch to be told")
        assert any("parcels" in change["role"] for change in told)
        transport.admin.delete_queue("parcels")
        wait_for(lambda: fates(transport.publish([event()], 5)) == [Fate.STORED], 60, "the mended queue")
        assert len(blocked.bodies(1)) == 1
        assert blocked.lane.problem == ""
        blocked.close()
        fine.close()


def test_closing_while_the_broker_is_away_ends_at_the_timeout(
    transport: RabbitTransport, rabbit_server: RabbitServer
) -> None:
    consumer = Consumer(transport)
    publish(transport, 1)
    consumer.take(1)
    rabbit_server.stop_signal()
    consumer.lane.close(0.5)
    rabbit_server.cont_signal()
    wait_for_depth(transport, ready=1)


def test_lanes_of_a_process_share_one_connection_until_the_last_is_closed(
    transport: RabbitTransport, rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    vhost = rabbit_vhost.rpartition("/")[2]

    def names() -> list[str]:
        found = rabbit_server.api("GET", f"/vhosts/{vhost}/connections")
        return [each.get("client_properties", {}).get("connection_name", "").split(" ")[1] for each in found]

    consumers = [Consumer(transport, declaration(name)) for name in ("parcels", "letters")]
    wait_for(lambda: names() == ["worker"], 20, lambda: f"one connection; {names()}")
    consumers[0].close()
    assert fates(transport.publish([event(queue="letters")], 10)) == [Fate.STORED]
    assert len(consumers[1].bodies(1)) == 1
    consumers[1].close()
    wait_for(lambda: names() == ["publisher"], 20, lambda: f"the publisher alone; {names()}")


GARBAGE: dict[str, tuple[bytes, pika.BasicProperties]] = {
    "nothing at all": (b"", pika.BasicProperties()),
    "bytes": (b"\xff\xfe\x00{", pika.BasicProperties(content_encoding="gzip")),
    "nonsense in our headers": (
        b"{}",
        pika.BasicProperties(headers={"x-attempt": "many", "x-published-at-ms": -4}),
    ),
    "headers of every type": (
        b"{}",
        pika.BasicProperties(
            headers={"n": 1, "t": {"a": [1, None, {"b": True}]}, "s": "\u00e9\x00", "b": b"\xff"}
        ),
    ),
    "an id that no database takes": (b"{}", pika.BasicProperties(message_id="a\x00b")),
    "a time after the year 9999": (b"{}", pika.BasicProperties(timestamp=(1 << 63) - 1)),
    "several frames": (b"x" * 400_000, pika.BasicProperties()),
}


def raw_publish(url: str, body: bytes, properties: pika.BasicProperties) -> None:
    """As somebody else's client would."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().basic_publish("", "parcels", body, properties)
    connection.close()


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_arrives_as_an_event_with_its_bytes(
    transport: RabbitTransport, rabbit_vhost: str, kind: str
) -> None:
    body, properties = GARBAGE[kind]
    transport.check_queue(declaration())
    raw_publish(rabbit_vhost, body, properties)
    consumer = Consumer(transport)
    (delivery,) = consumer.take(1)
    assert delivery.event.body == body
    assert delivery.event.message_id
    assert delivery.event.attempt == 1
    json.dumps(dict(delivery.event.headers)).encode()
    consumer.lane.done([delivery])
    consumer.close()


def test_headers_that_the_library_cannot_decode_cost_the_headers_and_not_the_connection(
    transport: RabbitTransport, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pika.data.encode_value

    def encode_time(pieces: list[bytes], value: object) -> int:
        if value == "in a while":
            pieces.append(b"T" + struct.pack(">Q", 1 << 62))
            return 9
        return int(real(pieces, value))

    transport.check_queue(declaration())
    with monkeypatch.context() as patch:
        patch.setattr(pika.data, "encode_value", encode_time)
        raw_publish(
            rabbit_vhost, b'{"n":1}', pika.BasicProperties(headers={"bad": "in a while"}, message_id="lost")
        )
    publish(transport, 2)
    with told_changes() as told:
        consumer = Consumer(transport)
        assert len(consumer.bodies(3)) == 3
        consumer.close()
    assert "away" not in [change["state"] for change in told]

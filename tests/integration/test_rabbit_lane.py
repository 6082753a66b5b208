"""Lanes against a real broker: what was not settled comes again, what was settled does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.transport.base import Delivery, Fate
from zerver.lib.transport.rabbitmq import RabbitTransport


@pytest.fixture
def transport(rabbit_vhost: str, rabbit_server: RabbitServer) -> Iterator[RabbitTransport]:
    with open_transport(rabbit_vhost, rabbit_server.management_url) as opened:
        yield opened


def test_an_event_arrives_with_all_that_was_said_of_it(transport: RabbitTransport) -> None:
    consumer = Consumer(transport)
    sent = event(7, attempt=3, headers={"traceparent": "00-abc-def-01"})
    assert fates(transport.publish([sent], AMPLE_SECONDS)) == [Fate.STORED]
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
    assert again.redelivered, "AMQP cannot say that nobody died of it; see worker.handed_back"
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
    assert fates(transport.publish([event(queue="letters")], AMPLE_SECONDS)) == [Fate.STORED]
    assert len(consumers[1].bodies(1)) == 1
    consumers[1].close()
    wait_for(lambda: names() == ["publisher"], 20, lambda: f"the publisher alone; {names()}")


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_as_much_is_fetched_as_is_handled_in_about_a_second(rabbit_vhost: str, queue_type: str) -> None:
    with open_transport(rabbit_vhost, queue_type=queue_type) as transport:
        publish(transport, 1000)
        queue = declaration(queue_type=queue_type, prefetch=200)
        consumer = Consumer(transport, queue, pace_seconds=0.25)
        surplus = consumer.note_surplus()
        taken = consumer.take(4)
        wait_for_depth(transport, ready=996)
        consumer.lane.done(taken)

        def works_until(count: int) -> Callable[[], bool]:
            def work() -> bool:
                taken.extend(consumer.take(1))
                consumer.lane.done(taken[-1:])
                return consumer.lane._prefetch.count == count and len(consumer.lane._ledger) <= count

            return work

        consumer.lane.pace_seconds = 0.0001
        wait_for(works_until(200), 20, "it to fetch as much as it may")
        wait_for(lambda: len(consumer.lane._ledger) > 150, 20, "it to come")
        consumer.lane.pace_seconds = 0.1
        wait_for(works_until(10), 20, "it to have no more than a second's work")
        redelivered = {delivery.event.message_id for delivery in taken if delivery.redelivered}
        handed_back = {delivery.event.message_id for delivery in surplus}
        assert redelivered <= handed_back, "no consumer took leave amid deliveries"
        consumer.close()


def test_a_consumer_that_does_not_have_all_that_it_may_is_exchanged_for_no_other(
    transport: RabbitTransport,
) -> None:
    consumer = Consumer(transport, declaration(prefetch=1000), pace_seconds=0.0015)
    publish(transport, 1)
    consumer.lane.done(consumer.take(1))
    consumer.lane.pace_seconds = 0.004  # less is wanted, and more than that does not come anyway
    for _ in range(300):
        publish(transport, 1)
        consumer.lane.done(consumer.take(1))
    assert consumer.lane._prefetch.count == 666
    consumer.close()


def test_what_an_earlier_consumer_left_in_hand_does_not_make_the_next_one_s_hand_full(
    transport: RabbitTransport,
) -> None:
    publish(transport, 300)
    consumer = Consumer(transport, declaration(prefetch=200), pace_seconds=0.001)
    held = consumer.take(200)
    assert all(consumer.lane.renew(delivery, 30) for delivery in held[:195]), "they are begun"
    consumer.lane.pace_seconds = 0.1
    handled = {delivery.event.message_id for delivery in held}

    def handle(deliveries: list[Delivery]) -> None:
        handled.update(delivery.event.message_id for delivery in deliveries)
        consumer.lane.done(deliveries)
        consumer.lane.flush()

    def works_until(count: int) -> Callable[[], bool]:
        def work() -> bool:
            handle(consumer.take(1))
            return consumer.lane._prefetch.count == count

        return work

    consumer.lane.done(held[195:])
    wait_for(works_until(10), 20, "it to want fewer")
    while len(handled) < 300:
        handle(consumer.take(1))

    def has_in_hand(count: int) -> Callable[[], bool]:
        return lambda: consumer.lane._ledger.of_consumer == count

    def told_in_hand() -> str:
        return f"the hand to be as wanted; of this consumer are in it {consumer.lane._ledger.of_consumer}"

    wait_for(has_in_hand(0), message=told_in_hand)
    consumer.lane.pace_seconds = 0.001
    for _ in range(60):
        publish(transport, 1)
        wait_for(has_in_hand(1), message=told_in_hand)
        handle(consumer.take(1))
        wait_for(has_in_hand(0), message=told_in_hand)
    assert (consumer.lane._prefetch.count, len(consumer.lane._ledger) > 190) == (10, True)
    publish(transport, 20)
    wait_for(works_until(200), 20, "it to want more, now that it has all that it may have")
    consumer.lane.done(held[:195])
    consumer.close()


def test_of_what_is_too_much_for_slow_handlers_the_newest_goes_back_to_those_who_have_time(
    transport: RabbitTransport,
) -> None:
    publish(transport, 200)
    consumer = Consumer(transport, declaration(prefetch=50), pace_seconds=0.001)
    wait_for_depth(transport, ready=150, unacked=50)
    consumer.lane.pace_seconds = 0.25
    bodies: list[bytes] = []

    def works() -> bool:
        (delivery,) = consumer.take(1)
        bodies.append(delivery.event.body)
        assert not delivery.redelivered, "it was not lost"
        consumer.lane.done([delivery])
        consumer.lane.flush()
        time.sleep(0.03)  # slowly enough that there is still a backlog after a second
        return consumer.lane._prefetch.count == 4

    wait_for(works, 20, "it to want fewer")
    wait_for(lambda: len(consumer.lane._ledger) <= 8, 20, "the others to go back")
    while len(bodies) < 200:
        bodies += consumer.bodies(1)
    assert bodies == [b'{"n":%d}' % n for n in range(200)], "in their order"
    consumer.close()


def test_a_worker_that_has_nothing_to_do_takes_no_more_at_once_than_its_pace_asks_for(
    transport: RabbitTransport,
) -> None:
    publish(transport, 1)
    # Looks every half a second, and four seconds are enough to begin what has come.
    consumer = Consumer(transport, declaration(prefetch=50), pace_seconds=0.001, consumer_timeout_seconds=16)
    consumer.lane.done(consumer.take(1))
    consumer.lane.pace_seconds = 0.25
    wait_for(lambda: consumer.lane._asked == 4, 20, "another consumer")
    publish(transport, 40)
    assert all(consumer.lane.renew(delivery, 30) for delivery in consumer.take(4)), "they are begun"
    wait_for_depth(transport, ready=36, unacked=4)
    consumer.close()


def test_over_a_long_way_more_is_fetched_as_well_though_never_all_of_it_is_in_hand(
    rabbit_vhost: str, rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbit_server.port)
    proxy.set_latency(0.02)
    with open_transport(proxy.through(rabbit_vhost)) as transport:
        publish(transport, 2000)
        consumer = Consumer(transport, pace_seconds=0.1)
        wait_for_depth(transport, ready=1990)
        consumer.lane.pace_seconds = 0.005
        taken = 0
        while taken < 2000 and consumer.lane._asked == 10:
            consumer.woken.wait(1)
            consumer.woken.clear()
            for delivery in consumer.lane.take(10):
                time.sleep(0.005)  # what a handler takes, an eighth of what the broker's next event does
                consumer.lane.done([delivery])
                taken += 1
        assert consumer.lane._asked == 200
        consumer.close()


def test_no_handler_is_without_work_because_others_are_slow_after_a_pause(transport: RabbitTransport) -> None:
    publish(transport, 20)
    consumer = Consumer(transport, declaration(threads=8), pace_seconds=0.125)
    taken = consumer.take(8)
    assert all(consumer.lane.renew(delivery, 30) for delivery in taken), "they are begun"
    consumer.lane.pause()
    consumer.lane.done(taken[:3])
    wait_for_depth(transport, ready=12, unacked=5)
    consumer.lane.resume()
    assert len(consumer.take(3)) == 3
    consumer.close()


def test_a_queue_is_not_without_a_consumer_while_a_large_hand_is_worked_off(rabbit_vhost: str) -> None:
    # Classic: a quorum queue counts a cancelled consumer until it has settled everything.
    with open_transport(rabbit_vhost, queue_type="classic") as transport:
        publish(transport, 300)
        consumer = Consumer(transport, declaration(queue_type="classic", prefetch=200), pace_seconds=0.001)
        held = consumer.take(200)
        assert all(consumer.lane.renew(delivery, 30) for delivery in held[20:]), "they are begun"
        consumer.lane.pace_seconds = 0.5

        def works() -> bool:
            consumer.lane.done([held.pop(0)] if len(held) > 180 else consumer.take(1))
            consumer.lane.flush()
            return consumer.lane._prefetch.count == 2

        wait_for(works, 20, "it to want fewer")
        wait_for_depth(transport, consumers=1)
        assert len(consumer.lane._ledger) > 150
        consumer.close()

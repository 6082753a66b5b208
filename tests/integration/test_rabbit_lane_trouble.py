"""Lanes that lose their connection, their channel, their queue or their turn: everything unsettled comes again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

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
    skip_from_4_3,
    told_changes,
    wait_for_depth,
)
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.registry import shards_of
from zerver.lib.transport.base import Delivery, Fate
from zerver.lib.transport.rabbitmq import RabbitTransport, subscription
from zerver.lib.transport.rabbitmq.topology import arguments


@pytest.fixture
def transport(rabbit_vhost: str, rabbit_server: RabbitServer) -> Iterator[RabbitTransport]:
    with open_transport(rabbit_vhost, rabbit_server.management_url) as opened:
        yield opened


def test_after_a_lost_connection_everything_unsettled_comes_again_and_nothing_else(
    rabbit_vhost: str, rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbit_server.port)
    with open_transport(rabbit_vhost) as publisher, open_transport(proxy.through(rabbit_vhost)) as transport:
        publish(publisher, 200)
        consumer = Consumer(transport, declaration(prefetch=100))
        settled = consumer.take(50)
        consumer.lane.done(settled)
        # The broker hands out another fifty when it has the acknowledgements, and no sooner.
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
        wait_for_depth(publisher, ready=0)


def test_a_restarted_broker_is_consumed_from_again(rabbit_vhost: str, rabbit_server: RabbitServer) -> None:
    with open_transport(rabbit_vhost, queue_type="classic") as transport:
        consumer = Consumer(transport, declaration(queue_type="classic"))
        publish(transport, 3)
        assert len(consumer.take(3)) == 3
        rabbit_server.remember_queues()
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


def test_a_queue_that_was_deleted_while_its_lane_was_paused_is_declared_anew(
    transport: RabbitTransport,
) -> None:
    publish(transport, 1)
    consumer = Consumer(transport)
    assert len(consumer.bodies(1)) == 1
    consumer.lane.pause()
    wait_for_depth(transport, consumers=0)
    with told_changes() as told:
        transport.admin.delete_queue("parcels", if_empty=False)
        consumer.lane.resume()
        wait_for_depth(transport, consumers=1)
    # Once, and not at every attempt.
    assert [change["state"] for change in told] == ["away", "open"]
    publish(transport, 1)
    assert len(consumer.bodies(1)) == 1
    consumer.close()


def test_a_consumer_that_the_broker_has_forgotten_begins_anew(
    transport: RabbitTransport, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quorum queue that is deleted and declared again at once (3.10) takes it up, and sends it nothing."""
    monkeypatch.setattr(subscription, "SILENCE_SECONDS", 2.0)
    publish(transport, 20)
    consumer = Consumer(transport)
    assert len(consumer.bodies(20)) == 20
    with closing(pika.BlockingConnection(pika.URLParameters(rabbit_vhost))) as other:
        channel = other.channel()
        channel.queue_delete("parcels")
        channel.queue_declare("parcels", durable=True, arguments=arguments(declaration()))
    publish(transport, 5)
    assert sorted(consumer.bodies(5)) == [b'{"n":%d}' % n for n in range(5)]
    consumer.close()


def test_a_lane_with_nothing_to_do_begins_anew_and_misses_nothing(
    transport: RabbitTransport,
    rabbit_server: RabbitServer,
    rabbit_vhost: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription, "SILENCE_SECONDS", 0.002)
    transport.check_queue(declaration())
    consumer = Consumer(transport)
    rounds = 0
    with told_changes() as told:
        # How often it is silent for so long is the machine's affair.
        while rounds < 100 or consumer.lane._generation <= 5:
            rounds += 1
            assert rounds < 5000, "it begins anew again and again"
            time.sleep(rounds % 4 / 1000)  # from nothing to longer than the silence that is waited for
            publish(transport, 4)
            assert sorted(consumer.bodies(4)) == [b'{"n":%d}' % n for n in range(4)]
    assert "away" not in [change["state"] for change in told], "and nobody need know"
    wait_for_depth(transport, ready=0, consumers=1)
    consumer.close()
    wait_for_depth(transport, ready=0, consumers=0)


def test_a_channel_that_the_broker_closes_is_opened_anew(
    rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    skip_from_4_3(rabbit_server, "it cancels the consumer instead, see test_rabbit_consumer_timeout")
    with rabbit_server.setting("consumer_timeout", 4_000), open_transport(rabbit_vhost) as transport:
        publish(transport, 2)
        consumer = Consumer(transport, declaration(prefetch=100))
        held, other = consumer.take(2)
        consumer.lane.done([other])
        assert consumer.lane.renew(held, 30), "it is begun, and does not come to an end"
        with told_changes() as told:
            (again,) = consumer.take(1, 60)
        assert again.event == held.event
        assert again.redelivered
        problem = (
            "takes events away after 4 s (its consumer_timeout), and timeout_seconds=30 is over half of that"
        )
        assert any(problem in change["problem"] for change in told)
        # From now on what nobody begins is given back in time, by us.
        publish(transport, 1)
        with told_changes() as told:
            (unstarted,) = consumer.take(1)
            assert not unstarted.redelivered
            assert consumer.lane.renew(unstarted, 1)
            consumer.lane.done([again])
            publish(transport, 2)
            wait_for(lambda: consumer.lane._prefetch.count < 100, 20, "the buffer to be given back")
        assert told == []
        consumer.lane.done([unstarted])
        consumer.lane.done(consumer.take(2))
        assert not consumer.lane.renew(held, 1)
        consumer.lane.done([held])
        consumer.close()
        wait_for_depth(transport, ready=0)


def test_events_that_nobody_takes_are_handed_back(transport: RabbitTransport) -> None:
    publish(transport, 3)
    slow = transport.open_lane(declaration(), "slow", consumer_timeout_seconds=1.6)
    slow.start(lambda: None)
    wait_for_depth(transport, unacked=3)
    slow.pause()
    wait_for_depth(transport, ready=3, unacked=0)
    slow.close(10)


def test_what_nobody_began_in_time_goes_back_and_less_is_asked_for(transport: RabbitTransport) -> None:
    publish(transport, 40)
    surplus: list[Delivery] = []
    consumer = Consumer(transport, declaration(prefetch=40), consumer_timeout_seconds=4.0)
    consumer.lane.on_surplus = surplus.extend
    taken = consumer.take(1)
    assert consumer.lane.renew(taken[0], 1), "it is begun"
    wait_for(lambda: len(surplus) == 39, message="the others to go stale")
    assert consumer.lane._subscription._consumer_tag is None, "the next one begins once they are back"
    consumer.lane.release(surplus)
    while len(taken) < 40:
        taken += consumer.take(1)
        consumer.lane.done(taken[-1:])
    assert [delivery.event for delivery in surplus] == [delivery.event for delivery in taken[1:]]
    consumer.lane.on_surplus = consumer.lane.release

    def works() -> bool:
        publish(transport, 40)
        for _ in range(40):
            consumer.lane.done(consumer.take(1))
        return consumer.lane._prefetch.count == 40

    wait_for(works, 20, "it to ask for more, now that all is begun in time")
    consumer.lane.done(taken[:1])
    consumer.close()
    wait_for_depth(transport, ready=0)


def test_what_a_shard_hands_back_takes_all_that_came_after_it_along(transport: RabbitTransport) -> None:
    family = declaration(shards=2, shard_key="n", prefetch=10)
    queue, _ = shards_of(family)
    numbers = [n for n in range(100) if family.place(b'{"n":%d}' % n) == queue.name][:20]
    first, second = (
        [event(queue=queue.name, body=b'{"n":%d}' % n) for n in some] for some in (numbers[:6], numbers[6:])
    )
    transport.publish(first, AMPLE_SECONDS)
    consumer = Consumer(transport, queue, consumer_timeout_seconds=8.0)
    (slow,) = consumer.take(1)
    assert consumer.lane.renew(slow, 30), "it is begun"
    time.sleep(1)
    transport.publish(second, AMPLE_SECONDS)  # these have not waited long when the first ones have
    wait_for(lambda: consumer.lane._prefetch.count < 10, 20, "the first to go stale")
    consumer.lane.done([slow])
    assert [consumer.bodies(1) for _ in range(19)] == [[b'{"n":%d}' % n] for n in numbers[1:]]
    consumer.close()


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("is_ending", [True, False])
def test_however_many_a_shard_hands_back_they_keep_their_order(
    rabbit_vhost: str, queue_type: str, is_ending: bool
) -> None:
    """RabbitMQ (3.10.8) keeps 32 that are handed back one by one in order, and no more."""
    family = declaration(shards=2, shard_key="n", prefetch=300, queue_type=queue_type)
    queue, _ = shards_of(family)
    numbers = [n for n in range(2000) if family.place(b'{"n":%d}' % n) == queue.name][:500]
    with open_transport(rabbit_vhost, queue_type=queue_type) as transport:
        transport.publish([event(queue=queue.name, body=b'{"n":%d}' % n) for n in numbers], AMPLE_SECONDS)
        consumer = Consumer(transport, queue, consumer_timeout_seconds=1800 if is_ending else 6.4)
        (running,) = consumer.take(1)
        assert consumer.lane.renew(running, 30), "it is begun"
        wait_for_depth(transport, queue, ready=200)
        if is_ending:
            given = consumer.lane.withdraw(10)
            consumer.lane.done([running])
            consumer.lane.release(given)
            consumer.close()
            consumer = Consumer(transport, queue)
        else:
            wait_for(
                lambda: consumer.lane._returning or consumer.lane._released, 20, "the others to go stale"
            )
            time.sleep(0.2)
            assert consumer.lane._live == 1, "what runs is not taken away"
            consumer.lane.done([running])
        bodies = [body for _ in range(499) for body in consumer.bodies(1)]
        assert bodies == [b'{"n":%d}' % n for n in numbers[1:]]
        consumer.close()
        wait_for_depth(transport, queue, ready=0)


def test_what_comes_to_a_shard_that_hands_back_goes_back_behind_it(transport: RabbitTransport) -> None:
    """A batch must be able to fill, so no fewer are asked for, and more comes meanwhile."""
    family = declaration(shards=2, shard_key="n", is_batch=True, batch_size=10, prefetch=10)
    queue, _ = shards_of(family)
    numbers = [n for n in range(100) if family.place(b'{"n":%d}' % n) == queue.name][:12]
    events = [event(queue=queue.name, body=b'{"n":%d}' % n) for n in numbers]
    transport.publish(events[:5], AMPLE_SECONDS)
    surplus: list[Delivery] = []
    consumer = Consumer(transport, queue, pace_seconds=1.0, consumer_timeout_seconds=4.0)
    consumer.lane.on_surplus = surplus.extend
    begun = consumer.take(2)
    assert all(consumer.lane.renew(delivery, 30) for delivery in begun)
    wait_for(lambda: surplus, 20, "the other three to go stale")
    transport.publish(events[5:], AMPLE_SECONDS)
    wait_for_depth(transport, queue, ready=2, unacked=10)
    wait_for(lambda: len(surplus) == 8, message="those that came meanwhile to go back as well")
    consumer.lane.release(surplus)
    consumer.lane.done(begun)
    bodies = [consumer.bodies(1) for _ in range(10)]
    assert bodies == [[b'{"n":%d}' % n] for n in numbers[2:]]
    consumer.close()


def test_a_queue_of_other_arguments_is_told_and_leaves_the_other_lanes_alone(
    rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerver.lib.transport.rabbitmq.subscription.MEMORY_SECONDS", 0.3)
    monkeypatch.setattr("zerver.lib.transport.rabbitmq.topology.MEMORY_SECONDS", 0.1)
    with open_transport(rabbit_vhost) as transport:
        transport.check_queue(declaration(queue_type="classic"))
        with told_changes() as told:
            blocked, fine = Consumer(transport), Consumer(transport, declaration("letters"))
            assert fates(transport.publish([event(queue="letters")], AMPLE_SECONDS)) == [Fate.STORED]
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
    assert consumer.lane.close(0.5), "the connection is gone"
    rabbit_server.cont_signal()
    wait_for_depth(transport, ready=1)


def test_a_lane_that_shares_its_connection_has_closed_once_the_broker_says_so(
    rabbit_vhost: str, rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbit_server.port)
    with open_transport(rabbit_vhost) as publisher, open_transport(proxy.through(rabbit_vhost)) as transport:
        never = transport.open_lane(declaration(), "test:1")
        assert never.close(0.1), "it was never started"
        publish(publisher, 3)
        consumer = Consumer(transport)
        consumer.take(1)
        other = Consumer(transport, declaration(name="letters"))
        wait_for(lambda: other.lane.has_answered, message="the other to consume")
        proxy.pause()
        assert not consumer.lane.close(0.3)
        assert not consumer.lane.close(0.1)
        proxy.resume()
        assert consumer.lane.close(10)
        wait_for_depth(publisher, ready=3)
        assert consumer.lane.close(0.1)
        other.close()

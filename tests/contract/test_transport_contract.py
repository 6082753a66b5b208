"""What every transport promises, whatever carries it. See ``zerver.lib.transport.base``."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connections, transaction
from msgspec.structs import replace

from tests.contract.harness import PUBLISH_TIMEOUT_SECONDS, Harness, Party, event, ids
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Fate, Unbegun

# -- what goes in comes out


def test_an_event_is_delivered_with_everything_that_it_was_published_with(harness: Harness) -> None:
    queue = harness.declare()
    headers = {"x-version": "1", "traceparent": "00-af76-b7ad-01", "x-übung": "größer"}
    sent = event(queue, body='{"name":"Zoë"}'.encode(), attempt=3, headers=headers)
    before = clock.monotonic()
    harness.publish(sent)

    [delivery] = harness.open(queue).take(1)

    assert delivery.event.body == sent.body
    assert delivery.event.message_id == sent.message_id
    assert delivery.event.queue == queue.name
    assert delivery.event.attempt == 3
    assert delivery.event.published_at_ms == sent.published_at_ms
    assert {name: delivery.event.headers.get(name) for name in headers} == headers
    assert not delivery.redelivered
    assert before <= delivery.received_at <= clock.monotonic()


@pytest.mark.parametrize("body", [b"", b"\x00\xff\xfe not JSON", b'{"a":"\\u0000 %s %(x)s"}'])
def test_a_body_travels_as_the_bytes_that_it_is(harness: Harness, body: bytes) -> None:
    queue = harness.declare()
    harness.publish(event(queue, body=body))

    [delivery] = harness.open(queue).take(1)

    assert delivery.event.body == body


def test_a_body_of_900_kb_arrives_whole(harness: Harness) -> None:
    queue = harness.declare()
    body = b'{"text":"' + bytes(range(32, 127)).replace(b'"', b"").replace(b"\\", b"") * 9_900 + b'"}'
    assert len(body) > 900_000
    harness.publish(event(queue, body=body))

    [delivery] = harness.open(queue).take(1)

    assert delivery.event.body == body


def test_a_thousand_events_of_one_call_are_answered_one_by_one_and_come_once_each(harness: Harness) -> None:
    queue = harness.declare()
    sent = [event(queue, number) for number in range(1000)]
    assert len(harness.publish(*sent)) == 1000
    party = harness.open(queue)

    taken: list[Delivery] = []
    while len(taken) < 1000:
        some = party.take(100)
        party.lane.done(some)
        taken += some
    party.lane.flush()

    assert sorted(ids(taken)) == sorted(item.message_id for item in sent)
    assert {item.message_id: item.body for item in sent} == {
        delivery.event.message_id: delivery.event.body for delivery in taken
    }
    harness.wait_for_ready(queue, 0)


def test_publishing_nothing_is_answered_by_nothing(harness: Harness) -> None:
    harness.declare()
    assert harness.publisher.publish([], PUBLISH_TIMEOUT_SECONDS) == []


def test_events_come_in_the_order_in_which_they_were_published(harness: Harness) -> None:
    queue = harness.declare()
    sent = [event(queue, number) for number in range(30)]
    for start in range(0, 30, 10):
        harness.publish(*sent[start : start + 10])

    assert ids(harness.open(queue).take(30)) == [item.message_id for item in sent]


def test_a_lane_takes_from_its_own_queue_alone(harness: Harness) -> None:
    mine, other = harness.declare("mine"), harness.declare("other")
    of_other, of_mine = event(other), event(mine)
    harness.publish(of_other, of_mine)

    assert ids(harness.open(mine).take(1)) == [of_mine.message_id]
    assert ids(harness.open(other).take(1)) == [of_other.message_id]


def test_an_event_vanishes_with_the_transaction_that_published_it(harness: Harness) -> None:
    if not harness.publisher.supports_transactions:
        pytest.skip("does not join transactions")
    queue = harness.declare()
    with transaction.atomic():
        harness.publish(event(queue))
        transaction.set_rollback(True)
    kept = event(queue)
    with transaction.atomic():
        harness.publish(kept)

    assert ids(harness.open(queue).take(1)) == [kept.message_id]
    assert harness.depth(queue).ready == 0


def test_an_event_with_a_delay_waits_for_it(harness: Harness) -> None:
    if not harness.publisher.supports_delay:
        pytest.skip("holds nothing back")
    queue = harness.declare()
    late, now = event(queue), event(queue)
    harness.publish(late, delay_seconds=3600)
    harness.publish(now)
    party = harness.open(queue)

    taken = party.take(1)
    assert ids(taken) == [now.message_id]
    party.settle(taken)
    assert harness.depth(queue).later == 1
    clock.offset_ms += 3_601_000
    assert ids(party.take(1)) == [late.message_id]


# -- taking


def test_take_never_waits(harness: Harness) -> None:
    party = harness.open(harness.declare())
    started = time.monotonic()
    for _ in range(20):
        assert party.lane.take(10) == []
    assert time.monotonic() - started < 20, "a second each, as who waits does"


def test_take_gives_no_more_than_was_asked_for(harness: Harness) -> None:
    queue = harness.declare()
    harness.publish(*[event(queue, number) for number in range(5)])
    party = harness.open(queue)

    first = wait_for(lambda: party.lane.take(2), 10)

    assert len(first) <= 2
    assert len(set(ids(first + party.take(5 - len(first))))) == 5


def test_a_publish_wakes_the_lane(harness: Harness) -> None:
    queue = harness.declare()
    party = harness.open(queue)
    harness.publish(event(queue))
    party.settle(party.take(1))  # now it fetches for sure
    _wait_until_quiet(party)

    harness.publish(event(queue))

    wait_for(party.woken.is_set, 10, "the lane to be woken")
    assert len(party.take(1)) == 1


def test_concurrent_takers_never_get_the_same_event(harness: Harness) -> None:
    queue = harness.declare(prefetch=10)
    sent = [event(queue, number) for number in range(300)]
    harness.publish(*sent)
    parties = [harness.open(queue), harness.open(queue)]
    taken: list[Delivery] = []

    def take_some(party: Party) -> None:
        while len(taken) < 300:
            some = party.lane.take(7)
            taken.extend(some)
            party.settle(some)
        connections.close_all()

    threads = [threading.Thread(target=take_some, args=(party,), daemon=True) for party in parties * 2]
    for thread in threads:
        thread.start()
    wait_for(lambda: not any(thread.is_alive() for thread in threads), 60, lambda: f"300, {len(taken)} came")

    assert sorted(ids(taken)) == sorted(item.message_id for item in sent)


# -- settling


def test_done_settles_for_good(harness: Harness) -> None:
    queue = harness.declare()
    harness.publish(*[event(queue, number) for number in range(3)])
    party = harness.open(queue)
    party.settle(party.take(3))
    party.close()

    following = event(queue)
    harness.publish(following)

    assert ids(harness.open(queue).take(1)) == [following.message_id]
    assert harness.depth(queue).ready == 0


def test_what_is_done_is_settled_by_closing(harness: Harness) -> None:
    queue = harness.declare()
    harness.publish(event(queue))
    party = harness.open(queue)
    party.lane.done(party.take(1))
    party.close()

    following = event(queue)
    harness.publish(following)

    assert ids(harness.open(queue).take(1)) == [following.message_id]


def test_what_is_released_comes_again_at_once(harness: Harness) -> None:
    queue = harness.declare(prefetch=1)
    harness.publish(event(queue))
    party = harness.open(queue)
    taken = party.take(1)

    party.lane.release(taken)

    [again] = party.take(1, timeout_seconds=5)
    assert again.event == replace(taken[0].event, headers=again.event.headers)
    if harness.tells_release_from_loss:
        assert not again.redelivered


def test_what_a_lost_process_held_comes_again_as_suspect(harness: Harness) -> None:
    if harness.lose is None:
        pytest.skip("a process takes everything along")
    queue = harness.declare()
    harness.publish(event(queue, 1), event(queue, 2))
    lost = harness.open(queue)
    taken = lost.take(2)
    lost.settle(taken[:1])

    harness.lose(lost)

    [again] = harness.open(queue).take(1)
    assert again.event.message_id == taken[1].event.message_id
    assert again.event.attempt == 1
    assert again.redelivered


def test_who_has_lost_a_delivery_is_told_and_settles_nothing(harness: Harness) -> None:
    if harness.lose is None:
        pytest.skip("a process takes everything along")
    queue = harness.declare()
    harness.publish(event(queue))
    first = harness.open(queue)
    [stale] = first.take(1)
    assert first.lane.renew(stale, 1.0)
    harness.lose(first)
    second = harness.open(queue)
    [present] = second.take(1)

    assert not first.lane.renew(stale, 3600)
    first.lane.done([stale])
    first.lane.flush()
    first.lane.release([stale])
    assert second.lane.renew(present, 1.0)

    harness.lose(second)
    third = harness.open(queue)
    assert ids(third.take(1)) == ids([stale])


def test_a_lane_that_has_answered_is_one_that_events_come_to(harness: Harness) -> None:
    queue = harness.declare()
    party = harness.open(queue)
    wait_for(lambda: party.lane.has_answered, 20, "the other side to answer")
    harness.publish(event(queue))
    party.take(1)


def test_what_a_closed_lane_had_fetched_comes_to_a_fresh_one_of_the_same_process(harness: Harness) -> None:
    """As when a queue is paused, and goes on."""
    queue = harness.declare(prefetch=10)
    sent = [event(queue, number) for number in range(10)]
    harness.publish(*sent)
    party = harness.open(queue)
    party.lane.done(party.take(2))
    party.lane.close(10)
    harness.wait_for_ready(queue, 8)
    party.lane = party.transport.open_lane(queue, "party-0")
    party.lane.start(party.woken.set)

    assert sorted(ids(party.take(8))) == sorted(item.message_id for item in sent[2:])


def test_closing_hands_back_what_was_never_taken(harness: Harness) -> None:
    queue = harness.declare(prefetch=10)
    harness.publish(*[event(queue, number) for number in range(5)])
    leaving = harness.open(queue)
    taken = leaving.take(2)
    leaving.settle(taken)

    leaving.close()

    rest = harness.open(queue).take(3)
    assert not set(ids(rest)) & set(ids(taken))


# -- pausing


def test_a_paused_lane_takes_nothing_and_goes_on_when_resumed(harness: Harness) -> None:
    queue = harness.declare()
    party = harness.open(queue)
    harness.publish(event(queue))
    in_hand = party.take(1)

    party.lane.pause()
    assert party.lane.renew(in_hand[0], 1.0)
    in_hand += _publish_until_one_stays(harness, queue, party)
    assert party.lane.take(10) == []

    party.lane.resume()
    party.settle(party.take(1) + in_hand)


def _publish_until_one_stays(harness: Harness, queue: QueueDeclaration, party: Party) -> list[Delivery]:
    """A pause takes a moment to arrive: what came meanwhile, which may be taken, and is then out of the way."""
    came: list[Delivery] = []

    def stays() -> bool:
        harness.publish(event(queue))
        known = len(came)
        wait_for(lambda: has_come(known) or harness.depth(queue).ready == 1, 10, "the event to be somewhere")
        return len(came) == known

    def has_come(known: int) -> bool:
        came.extend(party.lane.take(10))
        return len(came) > known

    wait_for(stays, 10, "an event that stays")
    return came


# -- looking and purging


def test_what_a_lane_has_fetched_and_nobody_has_begun_is_told_with_its_age(harness: Harness) -> None:
    queue = harness.declare()
    old = replace(event(queue), published_at_ms=clock.now_ms() - 60_000)
    harness.publish(old, event(queue), event(queue))
    party = harness.open(queue)
    taken = party.take(3)
    if not harness.publisher.supports_processes:
        assert party.lane.unbegun() == Unbegun()
        return

    told = party.lane.unbegun()
    assert told.count == 3
    for delivery in taken[:2]:
        assert party.lane.renew(delivery, 5)
    assert party.lane.unbegun().count == 1
    assert party.lane.renew(taken[2], 5)

    assert party.lane.unbegun() == Unbegun()
    # The table's clock says when a row was due; a broker knows when its event was published.
    assert told.oldest_ms is not None
    assert told.oldest_ms >= (60_000 if harness.publisher.name == "rabbitmq" else 0)


def test_the_depth_tells_what_waits_and_nothing_that_it_cannot_know(harness: Harness) -> None:
    queue = harness.declare(prefetch=1, ack_batch=1)
    harness.publish(*[event(queue, number) for number in range(3)])
    harness.wait_for_ready(queue, 3)
    party = harness.open(queue)
    taken = party.take(1)
    harness.wait_for_ready(queue, 2)

    assert harness.depth(queue).unacked in (1, None)
    party.settle(taken)
    party.lane.pause()


def test_the_depths_of_several_queues_are_told_at_once(harness: Harness) -> None:
    queue, other = harness.declare(), harness.declare("contract_other")
    harness.publish(*[event(queue, number) for number in range(3)])
    harness.publish(event(other))
    harness.wait_for_ready(queue, 3)
    harness.wait_for_ready(other, 1)

    depths = harness.publisher.depths([other, queue])

    assert [(name, depth.ready) for name, depth in depths.items()] == [("contract_other", 1), ("contract", 3)]
    assert harness.publisher.depths([]) == {}


def test_an_empty_queue_has_nothing_ready(harness: Harness) -> None:
    queue = harness.declare()
    party = harness.open(queue)
    harness.publish(event(queue))
    party.settle(party.take(1))
    harness.wait_for_ready(queue, 0)

    assert harness.depth(queue).oldest_ms is None


def test_purging_counts_what_waited_and_spares_what_is_in_hand(harness: Harness) -> None:
    queue = harness.declare(prefetch=1, ack_batch=1)
    harness.publish(*[event(queue, number) for number in range(4)])
    party = harness.open(queue)
    taken = party.take(1)
    harness.wait_for_ready(queue, 3)

    assert harness.publisher.purge(queue) == 3

    assert harness.publisher.purge(queue) == 0
    party.lane.release(taken)
    assert ids(party.take(1)) == ids(taken)


# -- ending


def test_a_transport_may_be_closed_twice_and_says_what_became_of_events(harness: Harness) -> None:
    queue = harness.declare()
    harness.publish(event(queue))
    harness.publisher.close()
    harness.publisher.close()

    [answer] = harness.publisher.publish([event(queue)], PUBLISH_TIMEOUT_SECONDS)

    assert answer.fate in (Fate.STORED, Fate.REFUSED)


def _wait_until_quiet(party: Party) -> None:
    """Until the lane has told everything that it had to tell."""

    def is_quiet() -> bool:
        party.woken.clear()
        return not party.woken.wait(0.2)

    wait_for(is_quiet, 10, "the lane to be quiet")

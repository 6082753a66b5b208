"""What came and was not begun goes back in time; what was begun does not."""

from __future__ import annotations

import threading

from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.immediate import ImmediateTransport
from zerver.lib.transport.rabbitmq.in_hand import Hold, InHand

LANE = ImmediateTransport(None).open_lane(QueueDeclaration(name="parcels"), "test")


def delivery(tag: int, received_at: float = 0.0) -> Delivery:
    event = Event(queue="parcels", message_id=str(tag), body=b"{}", published_at_ms=0)
    return Delivery(event=event, lane=LANE, token=Hold(1, tag), redelivered=False, received_at=received_at)


def in_hand_of(*deliveries: Delivery) -> InHand:
    made = InHand()
    made.add(deliveries)
    return made


def tags(deliveries: list[Delivery]) -> list[int]:
    return [each.token.tag for each in deliveries]


def test_what_is_old_and_not_begun_goes_back_from_the_buffer_and_from_whoever_took_it() -> None:
    taken, begun, waiting, young = delivery(1, 10), delivery(2, 11), delivery(3, 12), delivery(4, 20)
    in_hand = in_hand_of(taken, begun, waiting, young)
    assert in_hand.take(2) == [taken, begun]
    assert in_hand.begin(begun)
    assert tags(in_hand.take_back(before=15)) == [1, 3]
    assert in_hand.take_back(before=15) == []
    assert not in_hand.begin(taken)
    assert in_hand.begin(begun), "as often as one likes"
    assert in_hand.take(9) == [young]
    assert len(in_hand) == 0


def test_what_is_taken_back_is_the_takers_who_may_begin_it() -> None:
    in_hand = in_hand_of(delivery(1))
    [given] = in_hand.take(1)
    [mine] = in_hand.take_back()
    assert (mine.token.generation, mine.event) == (1, given.event)
    assert in_hand.begin(mine)
    assert not in_hand.begin(given)


def test_one_of_an_earlier_channel_is_gone_and_its_tag_touches_nothing_of_this_one() -> None:
    before, now = delivery(1), delivery(1)
    in_hand = in_hand_of(now)
    assert not in_hand.begin(before)
    assert tags(in_hand.take_back()) == [1]
    assert not in_hand.begin(now)


def test_each_is_either_begun_or_goes_back_whatever_two_threads_do_at_once() -> None:
    all_of_them = [delivery(tag) for tag in range(2_000)]
    in_hand = in_hand_of(*all_of_them)
    begun: list[int] = []
    start = threading.Barrier(2)

    def begin() -> None:
        start.wait()
        begun.extend(each.token.tag for each in reversed(all_of_them) if in_hand.begin(each))

    thread = threading.Thread(target=begin)
    thread.start()
    start.wait()
    back = tags(in_hand.take_back())
    thread.join()
    assert sorted(begun + back) == list(range(2_000))

"""Batches and flights: who answers, who waits, and who comes late."""

from __future__ import annotations

import threading

from zerver.lib.event import Event
from zerver.lib.transport.base import Fate
from zerver.lib.transport.rabbitmq.flight import (
    STORED,
    Batch,
    Flight,
    InFlight,
    halves,
    in_doubt,
    refused,
)


def event(name: str = "m", queue: str = "parcels") -> Event:
    return Event(queue=queue, message_id=name, body=b"0123456789", published_at_ms=1)


def fates(batch: Batch) -> list[Fate]:
    return [answer.fate for answer in batch.conclude("late")]


def test_a_batch_is_done_when_every_event_is_answered() -> None:
    batch = Batch([event(), event()])
    batch.answer(0, STORED)
    assert not batch.is_done()
    batch.answer(0, STORED)
    assert not batch.is_done()
    batch.answer(1, refused("no"))
    assert batch.wait(0)
    assert fates(batch) == [Fate.STORED, Fate.REFUSED]


def test_what_was_never_sent_is_refused_and_may_not_be_sent_any_more() -> None:
    batch = Batch([event(), event()])
    assert batch.begin(0)
    first, second = batch.conclude("too late")
    assert (first.fate, second.fate) == (Fate.UNKNOWN, Fate.REFUSED)
    assert (first.problem, second.problem) == ("too late", "too late")
    assert second.late is None
    assert not batch.begin(1)


def test_a_late_answer_resolves_the_future_once() -> None:
    batch = Batch([event(), event(), event()])
    for index in range(3):
        batch.begin(index)
    yes, no, cancelled = (answer.late for answer in batch.conclude("late"))
    assert yes is not None
    assert no is not None
    assert cancelled is not None
    cancelled.cancel()
    batch.answer(0, STORED)
    batch.answer(1, in_doubt("gone"))
    batch.answer(2, STORED)
    batch.answer(0, refused("twice"))
    assert (yes.result(0), no.result(0)) == (True, False)


def test_a_callback_of_a_late_answer_may_use_the_batch() -> None:
    batch = Batch([event()])
    batch.begin(0)
    (answer,) = batch.conclude("late")
    assert answer.late is not None
    seen: list[bool] = []
    answer.late.add_done_callback(lambda _: seen.append(batch.begin(0)))
    batch.answer(0, STORED)
    assert seen == [False]


def test_giving_up_ends_the_wait_with_its_reason() -> None:
    batch = Batch([event()])
    batch.begin(0)
    threading.Timer(0, batch.give_up, ["an alarm"]).start()
    assert batch.wait(10)
    assert batch.conclude("late")[0].problem == "an alarm"


def test_in_doubt_is_resolved_from_the_start() -> None:
    late = in_doubt("the connection is gone").late
    assert late is not None
    assert late.result(0) is False


def flights(count: int) -> tuple[InFlight, list[Flight]]:
    batch = Batch([event(str(n)) for n in range(count)])
    made = [Flight(batch, n) for n in range(count)]
    in_flight = InFlight()
    for flight in made:
        in_flight.add(flight)
    return in_flight, made


def test_confirms_name_one_tag_or_all_up_to_it() -> None:
    in_flight, made = flights(6)
    assert in_flight.size_bytes == 60
    assert in_flight.pop(2, multiple=False) == [made[1]]
    assert in_flight.pop(4, multiple=True) == [made[0], made[2], made[3]]
    assert in_flight.pop(4, multiple=True) == []
    assert in_flight.pop(3, multiple=False) == []
    assert list(in_flight) == made[4:]
    assert in_flight.size_bytes == 20
    assert in_flight.pop(6, multiple=True) == made[4:]
    assert len(in_flight) == 0


def test_a_return_marks_the_first_of_that_id_that_is_not_marked() -> None:
    batch = Batch([event("a"), event("b"), event("b")])
    in_flight = InFlight()
    made = [Flight(batch, n) for n in range(3)]
    for flight in made:
        in_flight.add(flight)
    assert in_flight.mark_returned("b", "no queue") is made[1]
    assert in_flight.mark_returned("b", "no queue") is made[2]
    assert in_flight.mark_returned("b", "no queue") is None
    assert [flight.returned for flight in made] == ["", "no queue", "no queue"]


def test_thousands_of_returns_are_one_walk() -> None:
    looked_at = 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal looked_at
            looked_at += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    in_flight, _ = flights(500)
    for n in range(500):
        assert in_flight.mark_returned(Counted(n), "no queue") is not None
    assert looked_at == 500


def test_a_return_out_of_order_is_found_all_the_same() -> None:
    in_flight, made = flights(4)
    assert in_flight.mark_returned("2", "no queue") is made[2]
    assert in_flight.mark_returned("0", "no queue") is made[0]
    assert in_flight.mark_returned("3", "no queue") is made[3]
    assert in_flight.mark_returned("7", "no queue") is None


def test_what_was_returned_on_an_earlier_channel_may_be_stored_on_the_next() -> None:
    in_flight, (flight,) = flights(1)
    in_flight.mark_returned("0", "no queue")
    assert flight.begin()
    assert flight.returned == ""


def test_queues_without_an_answer_are_told_whether_sent_to_or_not() -> None:
    batch = Batch([event("a"), event("b", "letters"), event("c", "third")])
    batch.begin(0)
    batch.answer(2, STORED)
    assert batch.unanswered_queues() == {"parcels", "letters"}
    batch.answer(0, STORED)
    batch.answer(1, refused("no"))
    assert batch.unanswered_queues() == set()


def test_halves_keep_everything_in_order() -> None:
    _, made = flights(5)
    first, second = halves(made)
    assert first + second == made
    assert [len(first), len(second)] == [2, 3]

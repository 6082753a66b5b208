"""How much is fetched ahead: about a second's work."""

from __future__ import annotations

import pytest

from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.prefetch import MOST_BYTES, Prefetch
from zerver.worker.pace import Pace


def prefetch(**options: object) -> Prefetch:
    return Prefetch(QueueDeclaration(name="letters", **options))  # type: ignore[arg-type]  # as a test gives them


def paced(made: Prefetch, *paces: float, start: float = 0.0, every: float = 0.1) -> list[int]:
    """``count`` after each of these looks."""
    counts = []
    for number, pace_seconds in enumerate(paces):
        made.adapt(pace_seconds, start + number * every)
        counts.append(made.count)
    return counts


@pytest.mark.parametrize(
    ("pace_seconds", "count"), [(0.0, 1000), (0.00001, 1000), (0.01, 100), (0.25, 4), (2.0, 1), (3600.0, 1)]
)
def test_a_consumer_begins_with_a_seconds_work_and_no_more_than_declared(
    pace_seconds: float, count: int
) -> None:
    made = prefetch(prefetch=1000)
    made.begin(pace_seconds)
    assert made.count == count


def test_threads_and_batches_never_starve() -> None:
    threads, batch, few = (
        prefetch(threads=8),
        prefetch(is_batch=True, batch_size=50),
        prefetch(prefetch=3, threads=8),
    )
    for made in (threads, batch, few):
        made.begin(10.0)
    assert (threads.count, batch.count, few.count) == (8, 50, 3)


def test_it_grows_at_once_and_shrinks_only_when_fewer_are_wanted_for_a_second() -> None:
    made = prefetch(prefetch=1000)
    made.begin(0.25)
    assert paced(made, 0.001) == [1000]
    assert paced(made, *[0.1] * 10, 0.0001, *[0.1] * 10) == [1000] * 21, (
        "one fast look begins the second anew"
    )
    assert paced(made, *[0.1] * 12, start=10)[-1] == 10


def test_what_was_wanted_long_ago_does_not_count_for_the_second() -> None:
    made = prefetch(prefetch=1000)
    made.begin(0.0001)
    assert paced(made, 0.1) == [1000]
    assert paced(made, 0.1, start=3600) == [1000], "one slow look, an hour later"
    assert paced(made, *[0.1] * 12, start=3600.1)[-1] == 10


def test_with_nothing_in_hand_it_shrinks_at_once() -> None:
    made = prefetch(prefetch=1000)
    made.begin(0.0001)
    assert not made.adapt_idle(0.0015)
    assert made.adapt_idle(0.25)
    assert made.count == 4
    assert not made.adapt_idle(0.0001), "and grows where more is there"


def unfilled(made: Prefetch, pace_seconds: float, looks: int, start: float, came: int = 5) -> list[bool]:
    """Looks ten times a second, at each of which so many had come."""
    found = []
    for number in range(looks):
        made.saw(100 * came, came)
        found.append(made.adapt_unfilled(pace_seconds, start + number / 10))
    return found


def test_what_is_far_too_few_and_never_full_grows_after_a_while() -> None:
    made = prefetch(prefetch=1000)
    made.begin(0.1)
    assert not any(unfilled(made, 0.06, 100, start=0)), "that is not far"
    assert not any(unfilled(made, 0.01, 50, start=10))
    assert unfilled(made, 0.1, 1, start=15) == [False], "one slow look begins the while anew"
    assert not any(unfilled(made, 0.01, 50, start=15.1))
    assert any(unfilled(made, 0.01, 2, start=20.1))
    assert made.count == 100
    assert not any(unfilled(made, 1.0, 100, start=30)), "nothing too many comes anyway"


def test_little_in_hand_because_little_comes_makes_nothing_grow() -> None:
    made = prefetch(prefetch=1000)
    made.begin(0.1)
    assert not any(unfilled(made, 0.001, 600, start=0, came=1)), "ten a second, where ten may be in hand"
    assert not made.adapt_unfilled(0.001, 3600.0)
    assert made.count == 10


def test_what_would_change_little_stays() -> None:
    made = prefetch(prefetch=1000)
    made.begin(0.01)
    assert paced(made, *[0.006, 0.019] * 20) == [100] * 40
    assert paced(made, 0.0001) == [1000]
    assert prefetch(prefetch=1000).adapt(0.0, 0.0) is False


def test_large_bodies_are_held_in_smaller_numbers() -> None:
    made = prefetch(prefetch=1000)
    made.begin(0.0001)
    made.saw(1 << 20, 1)
    assert paced(made, *[0.0001] * 15)[-1] == MOST_BYTES >> 20
    made.saw(100, 1)
    assert made.count == MOST_BYTES >> 20, "one small one changes nothing"


def test_what_was_not_begun_in_time_halves_it_until_all_is_begun_again() -> None:
    made = prefetch(prefetch=40)
    assert made.were_not_begun()
    assert made.count == 20
    assert paced(made, *[0.0] * 3) == [20] * 3
    made.were_all_begun()
    assert paced(made, 0.0) == [40]
    one = prefetch(prefetch=1)
    assert not one.were_not_begun()
    assert one.count == 1


def test_the_first_event_says_how_it_is_and_each_later_one_a_little() -> None:
    pace = Pace(QueueDeclaration(name="letters", threads=2))
    assert (pace.event_seconds, pace.process_seconds, pace.at_once) == (None, 0.125, 1)
    pace.note(0.01, 1)
    assert (pace.event_seconds, pace.process_seconds) == (0.01, 0.005)
    pace.note(10.0, 1)
    assert pace.process_seconds < 0.11, "one that takes long is no reason to fetch nothing"
    for _ in range(300):
        pace.note(10.0, 1)
    assert pace.process_seconds == pytest.approx(5.0, rel=0.05)


def test_events_that_are_told_together_say_as_much_as_one_by_one() -> None:
    together, by_one = (Pace(QueueDeclaration(name="letters")) for _ in range(2))
    for count in (1, 30, 200):
        together.note(1 / count, count)
        for _ in range(count):
            by_one.note(1 / count, 1)
        assert together.event_seconds == pytest.approx(by_one.event_seconds)
        assert together.process_seconds == pytest.approx(by_one.process_seconds)


def test_in_one_go_no_more_is_taken_than_is_soon_handled() -> None:
    alone, together = (
        Pace(QueueDeclaration(name="a", prefetch=50)),
        Pace(QueueDeclaration(name="a", threads=2)),
    )
    for made in (alone, together):
        made.note(0.01, 1)
    assert (alone.at_once, together.at_once) == (20, 1)
    for _ in range(100):
        alone.note(0.00001, 1)
    assert alone.at_once == 50

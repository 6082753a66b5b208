"""Where a lane begins to look: at the front of the line while that is cheap, else where the last look ended."""

from __future__ import annotations

import pytest

from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.event_table import Claim, Place
from zerver.lib.transport.bookmark import Bookmark

CHEAP, DEAR = 0.001, 0.1


class Now:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    moment = Now()
    monkeypatch.setattr(clock, "monotonic", moment)
    return moment


def claims(*places: Place) -> list[Claim]:
    event = Event(queue="noop", message_id="x", body=b"{}", published_at_ms=0)
    return [
        Claim(row_id=place[1], lease=1, event=event, redelivered=False, due_at_ms=place[0], place=place)
        for place in places
    ]


def looked(bookmark: Bookmark, seconds: float, *places: Place, is_full: bool = True) -> None:
    bookmark.looked(bookmark.begin(), seconds, claims(*places), is_full=is_full)


@pytest.fixture
def dear(now: Now) -> Bookmark:
    """One whose last two looks at the front were dear, and ended at (20, 2)."""
    bookmark = Bookmark()
    looked(bookmark, DEAR, (10, 1))
    looked(bookmark, DEAR, (20, 2))
    return bookmark


def test_every_look_begins_at_the_front_while_that_is_cheap(now: Now) -> None:
    bookmark = Bookmark()
    for number in range(5):
        looked(bookmark, CHEAP, (number, number))
        assert bookmark.begin() is None


def test_after_two_dear_looks_at_the_front_they_begin_where_the_last_one_ended(dear: Bookmark) -> None:
    assert dear.begin() == (20, 2)
    looked(dear, CHEAP, (30, 3), (30, 7), (30, 5))
    assert dear.begin() == (30, 7)


def test_one_dear_look_alone_changes_nothing_for_it_may_have_waited_for_a_lock(now: Now) -> None:
    bookmark = Bookmark()
    looked(bookmark, 10.0, (10, 1))
    assert bookmark.begin() is None
    looked(bookmark, CHEAP, (20, 2))
    assert bookmark.begin() is None


def test_a_tenth_of_the_time_goes_to_looks_at_the_front(dear: Bookmark, now: Now) -> None:
    now.seconds += 8 * DEAR
    assert dear.begin() is not None
    now.seconds += 2 * DEAR
    assert dear.begin() is None
    looked(dear, DEAR, (40, 4))
    assert dear.begin() == (40, 4)


def test_the_front_is_never_left_for_longer_than_half_a_minute(now: Now) -> None:
    bookmark = Bookmark()
    looked(bookmark, 60.0, (10, 1))
    looked(bookmark, 60.0, (20, 2))
    now.seconds += 31
    assert bookmark.begin() is None


def test_a_look_at_the_front_that_has_left_something_is_gone_on_with_from_there(
    dear: Bookmark, now: Now
) -> None:
    """As when a worker that ended has handed back more than one look takes."""
    now.seconds += 60
    looked(dear, DEAR, (5, 8), (5, 9))
    assert dear.begin() == (5, 9)


def test_a_look_at_the_front_that_found_all_there_was_does_not_go_back(dear: Bookmark, now: Now) -> None:
    now.seconds += 60
    looked(dear, DEAR, (5, 9), is_full=False)
    assert dear.begin() == (20, 2)


def test_a_look_that_found_nothing_leaves_the_place_as_it_is(dear: Bookmark) -> None:
    looked(dear, CHEAP, is_full=False)
    assert dear.begin() == (20, 2)

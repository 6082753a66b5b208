"""When schedules tick: across the changes of the clocks, after a break, and what no line can be."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerver.schedule import recurrence
from zerver.schedule.due import Due, due
from zerver.schedule.recurrence import NoRecurrence, Recurrence, between, cron, every, latest
from zerver.schedule.values import CatchUp, Plan, span

BERLIN = "Europe/Berlin"
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def told(ticks: list[int], zone: str = BERLIN) -> list[str]:
    """As the clocks of the place show them; ``*`` where they show it the second time."""
    moments = [datetime.fromtimestamp(at / 1000, ZoneInfo(zone)) for at in ticks]
    return [f"{moment:%H:%M}{'*' * moment.fold}" for moment in moments]


#: Clocks go from 02:00 to 03:00, and from 03:00 back to 02:00.
SPRING = ("2026-03-29T00:00", "2026-03-29T02:59")
AUTUMN = ("2026-10-25T00:00", "2026-10-25T02:59")


@pytest.mark.parametrize(
    ("line", "in_spring", "in_autumn"),
    [
        ("30 2 * * *", ["03:00"], ["02:30"]),
        ("0 2,3 * * *", ["03:00"], ["02:00", "03:00"]),
        ("15 3 * * *", ["03:15"], ["03:15"]),
        ("30 * * * *", ["01:30", "03:30", "04:30"], ["02:30", "02:30*", "03:30"]),
        ("0 */2 * * *", ["04:00"], ["02:00", "02:00*"]),
        # By the minutes that pass, there are none of two o'clock in spring.
        ("*/30 2 * * *", [], ["02:00", "02:30", "02:00*", "02:30*"]),
        ("0 30 2 * * *", [], ["02:30", "02:30*"]),
    ],
)
def test_the_clocks_change(line: str, in_spring: list[str], in_autumn: list[str]) -> None:
    made = cron(line, BERLIN)
    assert told(list(between(made, *map(ms, SPRING)))) == in_spring
    assert told(list(between(made, *map(ms, AUTUMN)))) == in_autumn


#: Weeks around the changes of these zones, of which the last ticks are no starts: the next may be in another week.
_CHANGES = [("03-06", "03-13"), ("03-27", "04-07"), ("04-22", "04-29"), ("10-22", "11-07")]
ZONES = [
    BERLIN,
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Havana",
    "UTC",
]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("line", ["30 2 * * *", "15 0,2,3 * * *", "*/20 * * * *", "0 0 * * 1-5"])
def test_a_moment_is_a_tick_whenever_one_begins_to_count(line: str, zone: str) -> None:
    """Clocks that change at midnight, and by half an hour, included."""
    made = cron(line, zone)
    ticks = [at for start, end in _CHANGES for at in between(made, ms(f"2026-{start}"), ms(f"2026-{end}"))]
    assert ticks == sorted(set(ticks))
    for start, end in _CHANGES:
        for at in range(ms(f"2026-{start}"), ms(f"2026-{end}") - 3 * DAY, 37 * MINUTE):
            assert made.after(at) == ticks[bisect_right(ticks, at)]


def test_a_span_of_time_ticks_at_its_multiples() -> None:
    assert every(300).after(ms("2026-05-01T10:02:30")) == ms("2026-05-01T10:05")
    assert every(300).after(ms("2026-05-01T10:05")) == ms("2026-05-01T10:10")
    assert every(86_400).after(ms("2026-05-01T10:05")) == ms("2026-05-02")


@pytest.mark.parametrize(
    "made", [every(1), cron("* * * * * *", BERLIN), cron("0 0 29 2 *", "UTC"), every(366 * 86_400)]
)
def test_the_newest_tick_of_years_is_found_at_once(made: Recurrence) -> None:
    until = ms("2026-05-01T10:05:30") + 500
    found = latest(made, ms("1999-01-01"), until)
    assert found is not None
    assert found <= until
    assert made.after(found) is None or (made.after(found) or 0) > until
    assert latest(made, found + 1, until) is None


@pytest.mark.parametrize(
    ("line", "timezone", "problem"),
    [
        ("0 0 31 2 *", "UTC", "or one that its months never have"),
        ("0 0 30 2 *", "UTC", "or one that its months never have"),
        ("* * *", "UTC", "wrong number of fields"),
        ("60 * * * *", "UTC", "bad minute"),
        ("*/0 * * * *", "UTC", "bad minute"),
        ("@reboot", "UTC", "wrong number of fields"),
        ("", "UTC", "cron line ''; give minute"),
        (7, "UTC", "cron line 7; give minute"),
        ("0 7 * * \0", "UTC", r"cron line '0 7 * * \x00'; give minute"),
        ("7 " * 5_000, "UTC", "…; give minute"),
        ("0 7 * * *", "Europe/Berln", "time zone 'Europe/Berln' is unknown; did you mean 'Europe/Berlin'?"),
        ("0 7 * * *", "Europe", "time zone 'Europe' is unknown"),
        ("0 7 * * *", "../../etc/passwd", "is unknown; give a name such as 'Europe/Berlin'"),
        ("0 7 * * *", "\0", "is unknown"),
        ("0 7 * * *", "localtime", "time zone 'localtime' is unknown"),
        ("0 7 * * *", "CEST", "time zone 'CEST' is unknown; give a name such as 'Europe/Berlin'"),
        ("0 7 * * *", 1, "timezone=1; give its name"),
    ],
)
def test_what_no_line_can_be(line: object, timezone: object, problem: str) -> None:
    with pytest.raises(NoRecurrence) as caught:
        cron(line, timezone)
    assert problem in str(caught.value)


def test_a_line_that_never_ticks_is_refused_and_one_that_rarely_does_is_not() -> None:
    """A fifth Monday is never the first or the 28th of a month, and the 29th of a February now and then."""
    assert cron("0 0 * 2 MON#5", "UTC").after(ms("2026-01-01")) == ms("2044-02-29")
    with pytest.raises(NoRecurrence, match="never ticks; give a day that some month has"):
        cron("0 0 */27 * MON#5", "UTC")


def test_a_host_without_time_zones_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence.zoneinfo, "available_timezones", set)
    with pytest.raises(NoRecurrence, match="install the package tzdata"):
        cron("0 7 * * *", "Nowhere/Land")


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(st.text("0123456789*/,-#LWSUNMO?@ ", max_size=6), min_size=4, max_size=7).map(" ".join),
    )
)
def test_whatever_is_written_ticks_or_is_refused(line: str) -> None:
    try:
        made = cron(line, BERLIN)
    except NoRecurrence:
        return
    first = made.after(ms("2026-10-25T00:00"))
    assert first is None or first > ms("2026-10-25T00:00")


def plan(catch_up: CatchUp = "once", within_seconds: float = 86_400, seconds: float = 60) -> Plan:
    return Plan(
        name="test",
        task_type="test",
        queue="",
        seconds=seconds,
        catch_up=catch_up,
        within_seconds=within_seconds,
    )


NOON = ms("2026-05-01T12:00")


@pytest.mark.parametrize("catch_up", ["skip", "once", "all"])
def test_a_tick_on_its_time(catch_up: CatchUp) -> None:
    early, late = NOON - 1, NOON + 400
    assert due(plan(catch_up), NOON, early) == Due(ticks=(), dealt_until_ms=early, next_at_ms=NOON)
    assert due(plan(catch_up), NOON, late) == Due(
        ticks=(NOON,), dealt_until_ms=late, next_at_ms=NOON + MINUTE
    )
    assert due(plan(catch_up), None, NOON) == Due(ticks=(), dealt_until_ms=NOON, next_at_ms=None)


def test_after_a_break_it_is_caught_up_as_it_should_be() -> None:
    now = NOON + 10 * MINUTE + 5_000
    newest, after = NOON + 10 * MINUTE, NOON + 11 * MINUTE
    every_one = tuple(range(NOON, now, MINUTE))
    assert due(plan("once"), NOON, now) == Due(
        ticks=(newest,), missed_from_ms=NOON, dealt_until_ms=now, next_at_ms=after
    )
    assert due(plan("all"), NOON, now) == Due(ticks=every_one, dealt_until_ms=now, next_at_ms=after)
    assert due(plan("skip"), NOON, now) == Due(
        ticks=(newest,), missed_from_ms=NOON, dealt_until_ms=now, next_at_ms=after
    )
    hourly = plan("skip", seconds=3600)
    assert due(hourly, NOON, now) == Due(
        ticks=(), missed_from_ms=NOON, dealt_until_ms=now, next_at_ms=NOON + HOUR
    )


def test_what_is_older_than_the_window_is_not_caught_up() -> None:
    now = NOON + 3 * DAY
    found = due(plan("all", within_seconds=86_400, seconds=3600), NOON, now)
    assert (found.ticks[0], found.ticks[-1], found.missed_from_ms) == (now - DAY, now, NOON)
    weekly = plan("once", within_seconds=86_400, seconds=7 * 86_400)
    tick = ms("2026-04-30T00:00")
    assert due(weekly, tick, tick + 2 * DAY) == Due(
        ticks=(), missed_from_ms=tick, dealt_until_ms=tick + 2 * DAY, next_at_ms=tick + 7 * DAY
    )


def test_who_has_been_there_and_had_too_much_to_do_has_missed_nothing() -> None:
    hourly, now = plan("skip", seconds=3600), NOON + 10 * MINUTE
    assert due(hourly, NOON, now, present_since_ms=NOON + MINUTE // 2).ticks == (NOON,)
    assert due(hourly, NOON, now, present_since_ms=NOON + 2 * MINUTE).ticks == ()


def test_a_window_is_never_shorter_than_a_tick_may_be_late() -> None:
    assert due(plan("once", within_seconds=1), NOON, NOON + 1_200).ticks == (NOON,)


def test_many_are_caught_up_by_and_by() -> None:
    now, place, seen = NOON + 250 * MINUTE, NOON, list[int]()
    while place is not None and place <= now:
        found = due(plan("all"), place, now)
        seen += found.ticks
        assert found.missed_from_ms is None
        assert found.next_at_ms is not None
        place = found.next_at_ms
    assert seen == list(range(NOON, now + 1, MINUTE))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 s"), (90, "90 s"), (300, "5 minutes"), (3600, "hour"), (1_209_600, "2 weeks")],
)
def test_spans_are_told_in_words(seconds: float, text: str) -> None:
    assert span(seconds) == text

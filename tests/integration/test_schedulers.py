"""Several ``queue_scheduler`` processes at once: each tick happens once, whatever becomes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from signal import SIGKILL, SIGTERM
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connections

from tests.integration.conftest import Spine, on_sqlite
from tests.ledger.apps import ROUND_SECONDS
from tests.ledger.clock import CLOCK_FILE
from tests.servers.postgres import PostgresServer
from tests.servers.processes import ProjectProcess
from tests.servers.service_manager import ServiceManager
from tests.wait import wait_for
from zerver.lib import clock
from zerver.schedule import schedules
from zerver.schedule.models import Schedule, ScheduleTick
from zerver.schedule.values import TickState
from zerver.tasker.models import Task

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
without_a_broker = pytest.mark.parametrize("spine", ["sqlite", "postgres"], indirect=True)


class MovedTime:
    """This process's time, and that of those that follow the file."""

    def __init__(self, spine: Spine) -> None:
        self._path = spine.directory / "clock"
        spine.env[CLOCK_FILE] = str(self._path)
        spine.env[ROUND_SECONDS] = "0.01"
        self._write()

    def move_to(self, moment: datetime) -> None:
        clock.offset_ms += round(moment.timestamp() * 1000) - clock.now_ms()
        self._write()

    def now(self) -> datetime:
        return datetime.fromtimestamp(clock.now_ms() / 1000, UTC)

    def _write(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(clock.offset_ms))
        fresh.replace(self._path)


@pytest.fixture
def moved(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> MovedTime:
    monkeypatch.setattr(clock, "offset_ms", 0)
    return MovedTime(spine)


def scheduler(spine: Spine) -> ProjectProcess:
    process = spine.start("queue_scheduler", env=spine.env)
    spine.processes.append(process)
    process.wait_for_output("started")
    return process


def dates(first: datetime, last: datetime) -> Iterator[datetime]:
    """Midnights of a place, by its calendar."""
    day = first.astimezone(BERLIN).date()
    while day <= last.astimezone(BERLIN).date():
        yield datetime(day.year, day.month, day.day, tzinfo=BERLIN)
        day += DAY


def daily(first: datetime, last: datetime) -> list[datetime]:
    """At half past two: in spring there is none, and the first moment after it counts; in autumn the first of two."""
    found = []
    for midnight in dates(first, last):
        at = midnight.replace(hour=2, minute=30).astimezone(UTC)
        is_there = at.astimezone(BERLIN).hour == 2
        found.append(at if is_there else midnight.replace(hour=3).astimezone(UTC))
    return found


def weekdays(first: datetime, last: datetime) -> list[datetime]:
    """At seven."""
    return [day.replace(hour=7).astimezone(UTC) for day in dates(first, last) if day.isoweekday() <= 5]


def hourly(first: datetime, last: datetime) -> list[datetime]:
    count = int((last - first) / HOUR) + 2
    begin = first.replace(minute=0, second=0, microsecond=0)
    return [begin + HOUR * number for number in range(count)]


@on_sqlite
def test_systemd_is_told_that_a_scheduler_has_begun_and_that_it_ends(
    spine: Spine, systemd: ServiceManager
) -> None:
    process = spine.start("queue_scheduler", env={**spine.env, "NOTIFY_SOCKET": systemd.address})
    systemd.wait_for("READY=1", process)
    assert "STOPPING=1" not in systemd.heard
    process.signal(SIGTERM)
    assert process.wait() == 0
    assert systemd.has_heard("STOPPING=1")


@without_a_broker
@pytest.mark.timeout(600)
def test_a_year_of_ticks_across_both_changes_of_the_clocks_by_three_schedulers_each_once(
    spine: Spine, moved: MovedTime
) -> None:
    """They are told what time it is, a day further each time, and every hour of those days when clocks change."""
    begin = (moved.now() + DAY).replace(hour=0, minute=0, second=1, microsecond=0)
    end = begin + timedelta(days=367)
    moved.move_to(begin)
    # A process that comes to forgetting what is old would forget the first months.
    spine.env["QUEUE_RETENTION_DAYS"] = "10000"
    each: dict[str, Any] = {"task": "performBare", "catch_up": "all", "overlap": "allow"}
    schedules.create("daily", cron="30 2 * * *", timezone="Europe/Berlin", **each)
    schedules.create("weekdays", cron="0 7 * * 1-5", timezone="Europe/Berlin", **each)
    schedules.create("hourly", cron="0 * * * *", timezone="Europe/Berlin", **each)
    schedules.create("span", every=timedelta(hours=7), **each)
    processes = [scheduler(spine) for _ in range(3)]

    for number, moment in enumerate(_steps(begin, end)):
        moved.move_to(moment)
        wait_for(lambda: not _due(moment), 60, lambda: f"what is due at {moment}: {_due(moment)}")  # noqa: B023 (at once)
        if number % 100 == 50:
            processes.pop(0).signal(SIGKILL)
            processes.append(scheduler(spine))

    expected = {
        "daily": daily(begin, end),
        "weekdays": weekdays(begin, end),
        "hourly": hourly(begin, end),
        "span": [
            datetime.fromtimestamp(hour * 25_200, UTC) for hour in range(int(end.timestamp()) // 25_200 + 1)
        ],
    }
    for name, moments in expected.items():
        wanted = [moment for moment in moments if begin < moment <= end]
        ticks = ScheduleTick.objects.filter(schedule__name=name).order_by("at_ms")
        assert [datetime.fromtimestamp(tick.at_ms / 1000, UTC) for tick in ticks] == wanted
        assert {tick.state for tick in ticks} == {TickState.FIRED.value}
        tasks = Counter(Task.objects.filter(reference=name).values_list("id", flat=True))
        assert tasks == Counter(tick.task_id for tick in ticks), "one task for each, and no other"
    for process in processes:
        process.signal(SIGTERM)
        assert process.wait() == 0


def _steps(begin: datetime, end: datetime) -> Iterator[datetime]:
    moment = begin
    while moment < end:
        changes = moment.astimezone(BERLIN).utcoffset() != (moment + DAY).astimezone(BERLIN).utcoffset()
        for _ in range(24 if changes else 1):
            moment += HOUR if changes else DAY
            yield min(moment, end)


def _due(moment: datetime) -> list[str]:
    rows = Schedule.objects.filter(next_at_ms__lte=int(moment.timestamp() * 1000))
    return list(rows.values_list("name", flat=True))


def test_what_schedulers_create_is_done_while_they_are_killed_and_begin_again(spine: Spine) -> None:
    """Every second a tick, in real time: from the first to the last there is none too few and none too many."""
    schedules.create(
        "seconds", task="performBare", every=timedelta(seconds=1), catch_up="all", overlap="allow"
    )
    spine.work("--queue=tasks")
    processes = [scheduler(spine), scheduler(spine)]
    for _ in range(3):
        wanted = len(spine.notes("bare")) + 2
        wait_for(lambda: len(spine.notes("bare")) >= wanted, 30, "tasks to be done")  # noqa: B023 (at once)
        processes.pop(0).signal(SIGKILL)
        processes.append(scheduler(spine))
    schedules.pause("seconds")
    for process in processes:
        process.signal(SIGTERM)
        assert process.wait() == 0

    ticks = ScheduleTick.objects.order_by("at_ms")
    moments = [tick.at_ms for tick in ticks]
    assert moments == list(range(moments[0], moments[-1] + 1, 1000))
    assert {tick.state for tick in ticks} == {TickState.FIRED.value}
    done = sorted(tick.task_id for tick in ticks)
    wait_for(lambda: sorted(note["task_id"] for note in spine.notes("bare")) == done, 30, "every task, once")


@without_a_broker
def test_a_scheduler_tells_what_is_wrong_and_goes_on(spine: Spine) -> None:
    span = timedelta(seconds=1)
    schedules.create("broken", task="performBare", every=span)
    schedules.create("sound", task="performBare", every=span, overlap="allow")
    Schedule.objects.filter(name="broken").update(task_type="renamed")
    process = scheduler(spine)
    wait_for(lambda: len(schedules.ticks("sound")) >= 3, 30, "the sound one to tick")
    assert schedules.ticks("broken") == []
    assert process.output.count("fails at schedule broken") == 1
    assert "no installed app has a task of the type 'renamed'" in process.output


@pytest.mark.parametrize("postgres_spine", ["table alone"], indirect=True)
def test_while_the_database_is_away_a_scheduler_waits_and_says_so_and_no_tick_is_lost(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine = postgres_spine
    schedules.create(
        "seconds", task="performBare", every=timedelta(seconds=1), catch_up="all", overlap="allow"
    )
    process = scheduler(spine)
    wait_for(lambda: schedules.ticks("seconds"), 30, "a tick")
    postgres_server.stop()
    process.wait_for_output("the database is away")
    postgres_server.start()
    connections.close_all()
    process.wait_for_output("the database is back")
    seen = len(schedules.ticks("seconds", 1000))
    wait_for(lambda: len(schedules.ticks("seconds", 1000)) >= seen + 2, 30, "ticks after it")
    process.signal(SIGTERM)
    assert process.wait() == 0
    moments = [tick.at_ms for tick in reversed(schedules.ticks("seconds", 1000))]
    assert moments == list(range(moments[0], moments[-1] + 1, 1000))

"""What becomes of schedules' ticks, and what may be asked of schedules; on SQLite and PostgreSQL, in moved time."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone
from pytest_django import Settings

from tests.integration.schedules import at_full_hour, due_now, look, own_declarations
from tests.integration.tasks import job
from tests.servers.databases import TestDatabase
from zerver.lib import clock, signals
from zerver.lib.errors import InvalidSetting, TransportUnavailable
from zerver.models import WaitingEvent
from zerver.schedule import (
    InvalidSchedule,
    ScheduleNotFound,
    ScheduleRefused,
    Ticked,
    every,
    firing,
    schedules,
)
from zerver.schedule import declarations as schedule_declarations
from zerver.schedule.declarations import ScheduleRegistry
from zerver.schedule.models import Schedule as Row
from zerver.schedule.models import ScheduleTick
from zerver.schedule.rounds import Rounds
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import TickState
from zerver.tasker import TaskState, tasker
from zerver.tasker import declarations as task_declarations
from zerver.tasker.declarations import TaskRegistry
from zerver.tasker.models import Task as TaskRow
from zerver.worker.chores import Chores

T = TickState
HOUR = timedelta(hours=1)
pytestmark = pytest.mark.usefixtures("tasks_here")


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> ScheduleRegistry:
    return own_declarations(monkeypatch)


def go_on(span: timedelta) -> None:
    """And look at all that is due then, as often as there is something."""
    clock.offset_ms += int(span.total_seconds() * 1000)
    look()


def create(name: str = "hourly", **given: Any) -> None:
    at_full_hour()
    schedules.create(name, **{"task": "performBare", "every": HOUR, **given})


def states(name: str = "hourly") -> list[str]:
    """The first first."""
    return [str(tick.state) for tick in reversed(schedules.ticks(name))]


def tasks(reference: str = "hourly") -> list[TaskRow]:
    return list(TaskRow.objects.filter(reference=reference).order_by("id"))


# -- ticks


def test_each_tick_creates_a_task_that_knows_which_it_is() -> None:
    create(task="perform", payload=job(1), overlap="allow")
    for _ in range(3):
        go_on(HOUR)
    ticks = schedules.ticks("hourly")
    assert [tick.task_id for tick in reversed(ticks)] == [row.id for row in tasks()]
    assert [tick.at_ms % 3_600_000 for tick in ticks] == [0, 0, 0]
    assert {tick.state for tick in ticks} == {T.FIRED}
    assert tasker.get(ticks[0].task_id).payload == job(1)


def test_an_event_is_published_at_each_tick() -> None:
    create("events", task=None, queue="ledger", payload={"n": 1})
    go_on(HOUR)
    go_on(HOUR)
    assert list(WaitingEvent.objects.values_list("queue", flat=True)) == ["ledger", "ledger"]
    assert states("events") == ["fired", "fired"]


def test_what_takes_a_payload_and_has_none_is_told_of_its_tick(
    declared: ScheduleRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = TaskRegistry()
    for module in (schedule_declarations, task_declarations):
        monkeypatch.setattr(module, "tasks", registry)
    heard: list[Ticked] = []

    from zerver.schedule import service
    from zerver.tasker import run
    from zerver.tasker import service as task_service

    for module in (firing, service, task_service, run):
        monkeypatch.setattr(module, "tasks", registry)

    @every(hours=1, name="told")
    def tell(tick: Ticked) -> None:
        heard.append(tick)

    at_full_hour()
    look()
    go_on(HOUR)
    assert tasker.process_queue() == 1
    [tick] = heard
    assert (tick["schedule"], tick["at"].minute, tick["at"].tzinfo) == ("told", 0, UTC)


def test_a_tick_is_a_transaction_and_comes_again_when_its_work_cannot_be_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create()
    clock.offset_ms += 3_600_000
    [due] = due_now()
    with monkeypatch.context() as patch:
        # The last thing that it does.
        patch.setattr("zerver.schedule.schedule_table.ScheduleTable.note", _fail)
        with pytest.raises(RuntimeError):
            firing.look(ScheduleTable("default"), due)
    assert (tasks(), states()) == ([], [])
    assert schedules.get("hourly").problem == "RuntimeError: in the middle of it"
    assert due_now() == [], "not at once"

    go_on(timedelta(seconds=11))
    assert (states(), len(tasks()), schedules.get("hourly").problem) == (["fired"], 1, "")


def _fail(*_: Any, **__: Any) -> bool:
    raise RuntimeError("in the middle of it")


def test_of_two_who_have_found_it_due_one_goes_on() -> None:
    create(overlap="allow")
    clock.offset_ms += 3_600_000
    [mine], [theirs] = due_now(), due_now()
    firing.look(ScheduleTable("default"), mine)
    firing.look(ScheduleTable("default"), theirs)
    assert (states(), len(tasks())) == (["fired"], 1)


def test_a_task_of_a_type_that_nobody_knows_any_more_waits_for_somebody_who_does() -> None:
    create()
    Row.objects.update(task_type="renamed")
    clock.offset_ms += 2 * 3_600_000
    [due] = due_now()
    with pytest.raises(Exception, match="no installed app has a task of the type 'renamed'"):
        firing.look(ScheduleTable("default"), due)
    assert "renamed" in schedules.get("hourly").problem
    Row.objects.update(task_type="performBare")
    go_on(timedelta(seconds=61))
    assert states() == ["missed", "fired"]


def test_one_that_fails_keeps_none_of_the_others() -> None:
    create()
    schedules.create("other", task="performBare", every=HOUR)
    Row.objects.filter(name="hourly").update(timezone="Nowhere/Land", cron="0 * * * *")
    clock.offset_ms += 3_600_000
    Rounds().look_at_due(Chores(signals.SCHEDULER, "default").do, lambda: False)
    assert states("other") == ["fired"]
    assert "time zone 'Nowhere/Land' is unknown" in schedules.get("hourly").problem


# -- a break


def test_after_a_break_one_makes_up_for_all_unless_something_else_is_said() -> None:
    create(overlap="allow")
    schedules.create("each", task="performBare", every=HOUR, catch_up="all", overlap="allow")
    schedules.create("none", task="performBare", every=HOUR, catch_up="skip")
    within = timedelta(hours=2, minutes=30)
    schedules.create(
        "some", task="performBare", every=HOUR, catch_up="all", catch_up_within=within, overlap="allow"
    )
    go_on(timedelta(hours=5, minutes=10))
    assert states() == ["missed", "fired"]
    assert states("each") == ["fired"] * 5
    assert states("none") == ["missed"]
    assert states("some") == ["missed", "fired", "fired", "fired"]
    [missed] = [tick for tick in schedules.ticks("hourly") if tick.state is T.MISSED]
    assert missed.note.startswith("this one and those until the one of ")
    assert missed.note.endswith("nobody looked in time; catch_up='once'")


def test_a_clock_that_is_put_back_repeats_nothing() -> None:
    create(overlap="allow")
    go_on(HOUR)
    clock.offset_ms -= 3_600_000
    look()
    go_on(HOUR)
    assert states() == ["fired"]


# -- overlap


def test_while_a_task_is_not_finished_ticks_are_skipped() -> None:
    create()
    go_on(HOUR)
    go_on(HOUR)
    assert states() == ["fired", "skipped"]
    assert schedules.ticks("hourly")[0].note == f"task {tasks()[0].id} of an earlier one is not finished"
    assert tasker.process_queue() == 1
    go_on(HOUR)
    assert states() == ["fired", "skipped", "fired"]


def test_ticks_stand_in_line_where_that_is_said() -> None:
    create(overlap="queue", catch_up="all")
    go_on(timedelta(hours=3, minutes=1))
    assert states() == ["fired", "waiting", "waiting"]
    go_on(timedelta(seconds=2))
    assert states() == ["fired", "waiting", "waiting"]
    for done in (1, 2):
        assert tasker.process_queue() == 1
        go_on(timedelta(seconds=2))
        assert states()[: done + 1] == ["fired"] * (done + 1)
    assert [tick.task_id for tick in reversed(schedules.ticks("hourly"))] == [row.id for row in tasks()]


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerver.schedule.firing.MOST_WAITING", 2)
    create(overlap="queue", catch_up="all")
    go_on(timedelta(hours=5, minutes=1))
    assert states() == ["fired", "waiting", "waiting", "skipped"]
    assert schedules.ticks("hourly")[0].note.endswith("2 wait already")
    assert (schedules.get("hourly").next_at_ms or 0) > clock.now_ms(), "there is no point in noting each"


def test_a_task_that_is_there_already_is_told_of() -> None:
    create(task="performByReference", payload=job(1), overlap="allow")
    go_on(HOUR)
    go_on(HOUR)
    assert states() == ["fired", "skipped"]
    assert "is unique, and is there already" in schedules.ticks("hourly")[0].note


def test_jitter_is_a_ticks_own_and_within_its_bounds() -> None:
    create(overlap="allow", jitter_seconds=600, catch_up="all")
    for _ in range(20):
        go_on(HOUR)
    late = [row.scheduled_at_ms % 3_600_000 / 1000 for row in tasks()]
    assert len(late) == 20
    assert all(0 <= seconds <= 600 for seconds in late)
    assert max(late) - min(late) > 100, "chances of less are below one in a million"


# -- what may be asked


def test_one_that_is_paused_does_nothing_and_goes_on_from_the_next_tick() -> None:
    create(overlap="allow")
    schedules.pause("hourly", "anna: the other side is down")
    go_on(3 * HOUR)
    assert states() == []
    found = schedules.get("hourly")
    assert (found.is_paused, found.paused_note) == (True, "anna: the other side is down")
    schedules.resume("hourly")
    look()
    assert states() == ["missed"]
    assert schedules.ticks("hourly")[0].note.endswith("it was paused")
    go_on(HOUR)
    assert states() == ["missed", "fired"]
    assert schedules.get("hourly").paused_note == ""


def test_one_is_run_between_its_ticks() -> None:
    create()
    schedules.pause("hourly")
    tick = schedules.run("hourly")
    assert (tick.state, [row.id for row in tasks()]) == (T.FIRED, [tick.task_id])
    with pytest.raises(
        ScheduleRefused, match=f"task {tick.task_id} of an earlier one is not finished; wait for it"
    ):
        schedules.run("hourly")
    again = schedules.run("hourly", anyway=True)
    assert (tick.note, again.note) == ("asked for", "asked for")
    assert again.at_ms > tick.at_ms
    assert len(tasks()) == 2


def test_one_is_run_in_its_turn_where_ticks_stand_in_line() -> None:
    create(overlap="queue")
    assert schedules.run("hourly").state is T.FIRED
    assert schedules.run("hourly").state is T.WAITING
    assert tasker.process_queue() == 1
    go_on(timedelta(seconds=2))
    assert states() == ["fired", "fired"]


def test_what_came_to_nothing_is_backfilled_and_what_did_not_is_not() -> None:
    create(overlap="allow")
    begin = timezone.now() + timedelta(milliseconds=clock.offset_ms)
    go_on(HOUR)
    go_on(timedelta(hours=4, minutes=1))
    assert states() == ["fired", "missed", "fired"]
    now = begin + timedelta(hours=5)
    assert schedules.backfill("hourly", begin, now) == 3
    assert states() == ["fired"] * 5
    assert len(tasks()) == 5
    assert schedules.backfill("hourly", begin, now) == 0
    assert schedules.backfill("hourly", begin - 3 * HOUR, begin) == 3, "from before it began, too"


def test_a_backfill_goes_one_by_one_where_nothing_may_overlap() -> None:
    create()
    now = timezone.now() + timedelta(milliseconds=clock.offset_ms)
    assert schedules.backfill("hourly", now - timedelta(hours=2, minutes=30), now) == 3
    assert states() == ["fired", "waiting", "waiting"]
    for _ in range(2):
        assert tasker.process_queue() == 1
        go_on(timedelta(seconds=2))
    assert states() == ["fired"] * 3
    assert {tick.note for tick in schedules.ticks("hourly")} == {"backfilled"}


def test_what_cannot_be_backfilled() -> None:
    create(every=timedelta(seconds=1), overlap="allow")
    now = timezone.now() + timedelta(milliseconds=clock.offset_ms)
    for start, end, problem in (
        (now, now + HOUR, "what is to come comes by itself"),
        (now, now - HOUR, "begins before it ends"),
        (now - timedelta(days=1), now, "more than 1,000 ticks would wait; backfill a shorter time"),
        (datetime(2026, 1, 1), now, "give an aware datetime"),  # noqa: DTZ001 (as somebody may)
    ):
        with pytest.raises(ScheduleRefused, match=problem):
            schedules.backfill("hourly", start, end)
    assert states() == []


def test_one_is_deleted_with_what_is_known_of_its_ticks_and_not_with_its_tasks() -> None:
    create()
    go_on(HOUR)
    schedules.delete("hourly")
    assert (Row.objects.count(), ScheduleTick.objects.count(), len(tasks())) == (0, 0, 1)
    with pytest.raises(
        ScheduleNotFound, match=r"there is no schedule 'hourly'; \./manage\.py queue_schedules list"
    ):
        schedules.get("hourly")


def test_a_schedule_commits_or_vanishes_with_the_callers_transaction() -> None:
    def fail() -> None:
        create()
        schedules.run("hourly")
        raise RuntimeError

    with pytest.raises(RuntimeError), transaction.atomic():
        fail()
    assert (Row.objects.count(), TaskRow.objects.count()) == (0, 0)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"task": None}, "does nothing; give task=, or queue= for an event"),
        ({"task": "perfrom"}, "did you mean 'perform'"),
        ({"task": "perform"}, "no payload is given, and 'perform' takes one"),
        ({"task": "perform", "payload": {"n": "x"}}, "payload: .*Expected `int`"),
        ({"task": None, "queue": "lodger", "payload": {"n": 1}}, "no worker declares queue 'lodger'"),
        ({"name": None}, "is no name"),
        ({"task": ["performBare"]}, "no installed app has a task of the type"),
        ({"task": None, "queue": ["ledger"]}, "give the queue's name"),
        ({"task": None, "queue": "tasks", "payload": {"n": 1}}, "is one of tasks; give task= as well"),
        ({"task": None, "queue": "ledger", "payload": {"n": 1, "text": "x" * (1 << 20)}}, "bytes"),
        ({"queue": "nowhere"}, "queue='nowhere'; choose from"),
        ({"every": None}, "ticks by nothing, or by two things; give cron= or every="),
        ({"cron": "0 7 * * *"}, "ticks by nothing, or by two things"),
        ({"timezone": "UTC"}, "timezone= goes with cron="),
        ({"every": 300}, "every=300; give a timedelta"),
        ({"every": None, "cron": "0 0 31 2 *"}, "one that its months never have"),
        ({"every": None, "cron": "0 7 * * *", "timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"name": "x" * 201}, "is no name"),
        ({"overlap": "no"}, "choose from 'skip', 'queue', 'allow'"),
        ({"colour": "red"}, "colour= is unknown"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSchedule, match=problem):
        create(**given)
    assert Row.objects.count() == 0


def test_a_name_is_given_once_and_unknown_ones_are_told() -> None:
    create()
    with pytest.raises(ScheduleRefused, match="exists already; delete it first"):
        create()
    for verb in (
        schedules.pause,
        schedules.resume,
        schedules.run,
        schedules.delete,
        schedules.get,
        schedules.ticks,
    ):
        with pytest.raises(ScheduleNotFound, match="did you mean 'hourly'"):
            verb("hourli")
        for name in (None, 5, ["hourly"], "hourly\0"):
            wrong: Any = name
            with pytest.raises(ScheduleNotFound, match="there is no schedule"):
                verb(wrong)


# -- what code declares


def tick() -> None:
    pass


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, declared: ScheduleRegistry) -> ScheduleRegistry:
    """``tick`` is a task, and other tests' are none of its concern."""
    every(hours=1, name="hourly", overlap="allow")(tick)
    return declared


def redeclare(declared: ScheduleRegistry, **given: Any) -> None:
    declared._schedules.clear()
    every(**{"name": "hourly", "overlap": "allow", **given})(tick)


def test_what_code_declares_has_a_row_once_a_scheduler_has_seen_it(bare: ScheduleRegistry) -> None:
    at_full_hour()
    look()
    go_on(HOUR)
    assert states() == ["fired"]
    assert schedules.get("hourly").is_declared


def test_one_that_is_declared_otherwise_goes_on_otherwise_and_loses_no_tick(bare: ScheduleRegistry) -> None:
    at_full_hour()
    look()
    clock.offset_ms += 3_600_000
    redeclare(bare, minutes=30, catch_up="all")
    look()
    assert states() == ["fired"], "the one that was due"
    go_on(timedelta(minutes=30))
    assert states() == ["fired", "fired"]
    redeclare(bare, minutes=30, catch_up="once")
    before = schedules.get("hourly")
    look()
    after = schedules.get("hourly")
    assert (after.plan.catch_up, after.next_at_ms) == ("once", before.next_at_ms)


def test_one_that_is_paused_stays_so_when_it_is_declared_otherwise(bare: ScheduleRegistry) -> None:
    at_full_hour()
    schedules.pause("hourly")
    redeclare(bare, minutes=30)
    go_on(HOUR)
    assert (schedules.get("hourly").is_paused, states()) == (True, [])


def test_one_that_no_code_declares_any_more_stops_and_is_forgotten(bare: ScheduleRegistry) -> None:
    at_full_hour()
    look()
    bare._schedules.clear()
    go_on(3 * HOUR)
    assert states() == []
    rounds = Rounds()
    rounds.forget(clock.now_ms() - 86_400_000)
    assert schedules.get("hourly").is_declared
    rounds.forget(clock.now_ms() - 3_600_000)
    assert schedules.all() == []


def test_a_name_that_is_given_at_run_time_is_nobodys_in_code(bare: ScheduleRegistry) -> None:
    with pytest.raises(ScheduleRefused, match="is declared in code; choose another name"):
        create()
    with pytest.raises(ScheduleRefused, match="is declared in code; take it out there; or pause it"):
        schedules.delete("hourly")
    bare._schedules.clear()
    create()
    redeclare(bare, minutes=5)
    rounds = Rounds()
    with pytest.raises(ScheduleRefused, match="is declared in code, and was created at run time as well"):
        rounds.synchronize()
    assert schedules.get("hourly").plan.task_type == "performBare"


# -- the second day


def test_ticks_are_forgotten_but_for_those_that_matter_still() -> None:
    create(overlap="queue", catch_up="all")
    go_on(timedelta(hours=2, minutes=1))
    assert states() == ["fired", "waiting"]
    clock.offset_ms += 31 * 86_400_000
    Rounds().forget(clock.now_ms() - 30 * 86_400_000)
    assert states() == ["fired", "waiting"]
    tasker.process_queue()
    look()
    tasker.process_queue()
    look()


def test_a_project_without_the_app_is_told_what_to_add(settings: Settings) -> None:
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "zerver.schedule"]
    with pytest.raises(InvalidSetting, match=r"lacks zerver\.schedule; add it beside zerver.tasker"):
        schedules.all()


def test_payloads_are_sealed_and_one_whose_key_is_gone_waits_for_it(settings: Settings) -> None:
    from cryptography.fernet import Fernet

    settings.QUEUE_BODY_KEYS = [Fernet.generate_key().decode()]
    create(task="perform", payload=job(1, text="secret words"), overlap="allow")
    [row] = Row.objects.all()
    assert b"secret" not in bytes(row.payload)
    keys, settings.QUEUE_BODY_KEYS = settings.QUEUE_BODY_KEYS, []
    go_on(HOUR)
    assert states() == []
    assert "its payload cannot be opened: it is sealed with key" in schedules.get("hourly").problem
    with pytest.raises(ScheduleRefused, match="its payload cannot be opened"):
        schedules.run("hourly")
    settings.QUEUE_BODY_KEYS = keys
    look()
    assert states() == ["fired"]


def test_a_database_without_its_tables_says_what_to_do(tasks_here: Any) -> None:
    with connection.schema_editor() as editor:
        editor.execute("ALTER TABLE zerver_schedule RENAME TO zerver_away")
    try:
        with pytest.raises(TransportUnavailable, match="migrate"):
            schedules.all()
    finally:
        with connection.schema_editor() as editor:
            editor.execute("ALTER TABLE zerver_away RENAME TO zerver_schedule")


def test_tasks_that_are_cancelled_or_failed_hold_nobody_up() -> None:
    create()
    go_on(HOUR)
    tasker.cancel(tasks()[0].id)
    go_on(HOUR)
    assert states() == ["fired", "fired"]
    TaskRow.objects.update(state=TaskState.FAILED.value)
    go_on(HOUR)
    assert states() == ["fired"] * 3
    TaskRow.objects.all().delete()
    go_on(HOUR)
    assert states() == ["fired"] * 4


# -- what went wrong once


def test_somebodys_open_transaction_keeps_no_other_schedule(tasks_here: TestDatabase) -> None:
    if tasks_here.vendor == "sqlite":
        pytest.skip("one transaction that writes keeps all others from writing there")
    create(overlap="allow")
    schedules.create("other", task="performBare", every=HOUR, overlap="allow")
    clock.offset_ms += 3_600_000
    table, seen = ScheduleTable("default"), list[list[str]]()

    def scheduler() -> None:
        look()
        seen.append([str(tick.state) for tick in table.ticks(schedules.get("other"), 10)])
        connections.close_all()

    with transaction.atomic():
        table.change(schedules.get("hourly"))
        thread = threading.Thread(target=scheduler)
        thread.start()
        thread.join(30)
        assert seen == [["fired"]]
    look()
    assert states() == ["fired"]


def test_of_two_versions_that_declare_it_differently_no_tick_is_lost(bare: ScheduleRegistry) -> None:
    """The older ticks at the full hour, the newer every five minutes; each gives the row what it declares, in turn."""
    at_full_hour()
    look()
    for minute in range(60):
        redeclare(bare, **({"hours": 1} if minute % 2 else {"minutes": 5}), catch_up="all")
        go_on(timedelta(minutes=1))
    redeclare(bare, minutes=5, catch_up="all")
    look()
    moments = sorted(tick.at_ms for tick in schedules.ticks("hourly"))
    assert [at_ms % 3_600_000 // 60_000 for at_ms in moments] == [*range(5, 60, 5), 0]


def test_that_a_row_becomes_as_code_declares_it_is_told(
    bare: ScheduleRegistry, told: list[tuple[str, str]]
) -> None:
    at_full_hour()
    look()
    redeclare(bare, minutes=5)
    look()
    look()
    redeclare(bare, minutes=5, jitter_seconds=9)
    look()
    changes = [problem for state, problem in told if state == "changes schedule hourly"]
    assert changes == [
        "every 5 minutes, until now every hour, as the code here declares it",
        "its options, as the code here declares it",
    ]


def test_what_was_due_by_the_old_rhythm_is_had_before_the_new_one_begins(bare: ScheduleRegistry) -> None:
    at_full_hour()
    redeclare(bare, hours=1, catch_up="all")
    look()
    clock.offset_ms += 5 * 3_600_000
    redeclare(bare, weeks=1, catch_up="all")
    look()
    assert states() == ["fired"] * 5


def test_a_clock_that_was_a_year_ahead_for_a_moment_silences_nothing() -> None:
    create(overlap="allow")
    year_ms = 366 * 86_400_000
    clock.offset_ms += year_ms
    look()
    clock.offset_ms -= year_ms
    look()
    go_on(HOUR)
    assert states()[:1] == ["fired"]
    assert schedules.ticks("hourly", 2)[-1].at_ms <= clock.now_ms()


def test_a_backfill_that_stands_in_line_is_neither_missed_nor_skipped() -> None:
    create(every=timedelta(minutes=30))
    clock.offset_ms += 5 * 3_600_000
    now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
    assert schedules.backfill("hourly", now - 5 * HOUR) == 10
    look()
    assert Counter(states()) == {"fired": 1, "waiting": 9}


def test_what_stands_in_line_goes_on_when_the_schedule_is_declared_otherwise(bare: ScheduleRegistry) -> None:
    redeclare(bare, weeks=1, overlap="queue")
    assert schedules.run("hourly").state is T.FIRED
    assert schedules.run("hourly").state is T.WAITING
    TaskRow.objects.update(state=TaskState.SUCCEEDED.value)
    redeclare(bare, weeks=1, overlap="queue", jitter_seconds=1)
    look()
    assert states() == ["fired", "fired"]


def test_what_was_made_at_run_time_can_be_deleted_when_code_declares_its_name(
    declared: ScheduleRegistry,
) -> None:
    create()
    redeclare(declared, hours=1)
    schedules.delete("hourly")
    look()
    assert schedules.get("hourly").is_declared


def test_a_paused_one_is_not_backfilled_one_by_one() -> None:
    create()
    schedules.pause("hourly")
    now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
    with pytest.raises(
        ScheduleRefused, match="is paused, and what stands in line would wait; resume it first"
    ):
        schedules.backfill("hourly", now - 3 * HOUR)


def test_inline_tasks_run_when_the_tick_is_committed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUE_TASKS = {"default": {"BACKEND": "zerver.tasker.backends.inline.InlineBackend"}}
    seen = list[bool]()
    monkeypatch.setattr("tests.ledger.tasks.note", lambda *_, **__: seen.append(connection.in_atomic_block))
    create()
    go_on(HOUR)
    assert seen == [False]
    assert tasks()[0].state == TaskState.SUCCEEDED.value


def test_a_run_takes_no_ticks_place() -> None:
    create(overlap="allow")
    clock.offset_ms += 3_600_000 - clock.now_ms() % 3_600_000
    tick = schedules.run("hourly")
    look()
    assert tick.at_ms % 3_600_000 != 0
    assert states() == ["fired", "fired"]


def test_words_that_no_database_keeps_are_kept_as_far_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    create()
    schedules.pause("hourly", "why\0not\udcff")
    assert "why" in schedules.get("hourly").paused_note
    schedules.resume("hourly")
    clock.offset_ms += 3_600_000
    monkeypatch.setattr(firing, "fire", _fail_oddly)
    [due] = due_now()
    with pytest.raises(RuntimeError):
        firing.look(ScheduleTable("default"), due)
    assert "odd" in schedules.get("hourly").problem


def _fail_oddly(*_: Any) -> str:
    raise RuntimeError("odd \0 \udcff")

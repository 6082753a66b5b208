"""How schedules stand, told by the status, the metrics and the doctor; on SQLite and PostgreSQL, in moved time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.checkup import check, of, only
from tests.integration.commands import run
from tests.integration.schedules import HOUR_MS, at_full_hour, look, own_declarations
from zerver.lib import clock
from zerver.lib.queue import queue_json_publish
from zerver.monitoring.snapshot import Snapshot, take_snapshot
from zerver.schedule import every, firing, schedules
from zerver.schedule.declarations import ScheduleRegistry
from zerver.schedule.models import Schedule
from zerver.schedule.schedule_table import ScheduleTable
from zerver.tasker import tasker

HOUR = timedelta(hours=1)
TABLE = ("--only", "table")


pytestmark = pytest.mark.usefixtures("tasks_here")


def of_code() -> None:
    """What a declaration stands above."""


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> ScheduleRegistry:
    return own_declarations(monkeypatch)


def create(*names: str) -> None:
    """A second after the full hour, so that what the machine takes for a test changes nothing."""
    at_full_hour()
    for name in names:
        schedules.create(name, task="performBare", every=HOUR)


def one_of_each() -> None:
    """Failing, late, new, paused, undeclared; and nobody has looked for two hours."""
    create("failing", "late", "paused", "undeclared")
    # It is looked at again and again.
    again_ms = clock.now_ms() + 2 * HOUR_MS + 5_000
    Schedule.objects.filter(name="failing").update(problem="LookupError: renamed", look_at_ms=again_ms)
    Schedule.objects.filter(name="undeclared").update(is_declared=True)
    schedules.pause("paused", "anna: away")
    every(hours=1, name="new")(of_code)
    clock.offset_ms += 2 * HOUR_MS


def by_name(told: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in told}


# -- the status


def test_programs_are_told_of_all_and_people_of_those_that_somebody_should_look_after() -> None:
    one_of_each()
    told = by_name(run("queue_status", "--json").json["schedules"])
    assert {name: each["state"] for name, each in told.items()} == {
        name: name for name in ("failing", "late", "new", "paused", "undeclared")
    }
    assert [name for name, each in told.items() if each["late_ms"]] == ["failing", "late", "undeclared"]
    assert abs(told["late"]["late_ms"] - HOUR_MS) < 60_000
    assert (told["failing"]["why"], told["paused"]["why"]) == ("LookupError: renamed", "anna: away")
    ran = run("queue_status")
    assert "schedule  state    why" in ran.out
    assert ran.row("failing") == ["failing", "failing", "LookupError: renamed"]
    assert "see that ./manage.py queue_scheduler runs" in ran.row("late")[2]
    assert "no queue_scheduler has run since it was declared" in ran.row("new")[2]
    assert "paused" not in ran.out
    assert "undeclared" not in ran.out


def test_while_all_is_well_people_are_told_nothing() -> None:
    create("hourly")
    clock.offset_ms += HOUR_MS
    look()
    [told] = run("queue_status", "--json").json["schedules"]
    assert told == {"name": "hourly", "state": "ticking", "late_ms": 0, "why": ""}
    assert "schedule" not in run("queue_status").out


def test_what_could_not_be_asked_is_null() -> None:
    assert Snapshot(taken_at_ms=1, queues=()).as_json()["schedules"] is None


def test_ticks_that_are_kept_are_not_looked_through_at_each_look(django_assert_num_queries: Any) -> None:
    create("hourly", "other")
    clock.offset_ms += HOUR_MS
    look()
    with django_assert_num_queries(9) as asked:
        found = take_snapshot().schedules or ()
    assert [(each.plan.name, each.last) for each in found] == [("hourly", None), ("other", None)]
    assert not any("zerver_schedule_tick" in query["sql"] for query in asked.captured_queries)


# -- the metrics


def test_the_metrics_count_them_and_tell_for_how_long_ticks_have_been_due(tmp_path: Path) -> None:
    create("hourly")
    one_of_each()
    firing.look(ScheduleTable("default"), schedules.get("hourly"))
    file = tmp_path / "zerver.prom"
    assert run("queue_metrics", "--textfile", str(file)).code == 0
    samples = dict(
        line.rsplit(" ", 1) for line in file.read_text().splitlines() if line.startswith("zerver_schedule")
    )
    states = ("failing", "late", "new", "paused", "ticking", "undeclared")
    assert {state: samples.pop(f'zerver_schedules{{state="{state}"}}') for state in states} == dict.fromkeys(
        states, "1.0"
    )
    assert samples.pop('zerver_schedules{state="over"}') == "0.0"
    late = {
        name: float(samples[f'zerver_schedule_late_seconds{{schedule="{name}"}}'])
        for name in ("failing", "late")
    }
    assert all(abs(seconds - 3600) < 60 for seconds in late.values())
    assert samples['zerver_schedule_late_seconds{schedule="paused"}'] == "0.0"
    assert samples['zerver_schedule_late_seconds{schedule="hourly"}'] == "0.0"
    # Of "new" nobody knows, and for "undeclared" nobody waits.
    assert len(samples) == 4


# -- the doctor


def test_schedules_that_nobody_has_tick_are_told_together() -> None:
    every(hours=1, name="new")(of_code)
    found = only(check(*TABLE), "table.schedules-unattended")
    assert (found["severity"], found["where"]) == ("warning", "schedules")
    assert found["what"] == "1 schedule waits for a queue_scheduler: new"
    create("a", "b", "c", "d", "e")
    clock.offset_ms += 2 * HOUR_MS
    found = only(check(*TABLE), "table.schedules-unattended")
    assert found["severity"] == "problem"
    assert found["what"].startswith(
        "6 schedules wait for a queue_scheduler: a; b; c; d; e; and 1 more; a tick has"
    )
    assert found["mend"].endswith("./manage.py queue_scheduler")
    assert of(check("--only", "workers"), "table.schedules-unattended") == []
    look()
    assert of(check(*TABLE), "table.schedules-unattended") == []


def test_a_schedule_that_fails_is_told_with_what_it_fails_at() -> None:
    create("hourly")
    Schedule.objects.update(task_type="renamed")
    clock.offset_ms += HOUR_MS
    with pytest.raises(Exception, match="renamed"):
        look()
    ran = check(*TABLE)
    found = only(ran, "table.schedules-failing")
    assert (ran.code, found["severity"]) == (2, "problem")
    assert found["what"].startswith("1 schedule fails: hourly: ")
    assert "no installed app has a task of the type 'renamed'" in found["what"]
    assert of(ran, "table.schedules-unattended") == []
    Schedule.objects.update(task_type="performBare")
    clock.offset_ms += 61_000
    look()
    assert of(check(*TABLE), "table.schedules-failing") == []
    assert tasker.process_queue() == 1


def test_why_a_queue_does_not_move_has_nothing_to_do_with_schedules() -> None:
    one_of_each()
    queue_json_publish("ledger", {"n": 1})
    [told] = [run("queue_explain", "ledger", "--json", "--look", "0.1").json["queue"]]
    assert [reason for reason in told["reasons"] if "schedule" in reason["code"]] == []

"""queue_schedules: schedules are shown, paused, resumed, run and deleted."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.integration.commands import at_terminal, run
from tests.integration.schedules import at_full_hour, own_declarations
from tests.integration.tasks import job
from zerver.lib import clock
from zerver.schedule import every, schedules
from zerver.schedule.models import Schedule
from zerver.schedule.rounds import Rounds
from zerver.tasker import tasker

HOUR = timedelta(hours=1)


def declared_one() -> None:
    pass


@pytest.fixture
def made(tasks_here: object, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    own_declarations(monkeypatch)
    every(hours=1, name="from code")(declared_one)
    at_full_hour()
    schedules.create("report", task="perform", payload=job(1, text="hello"), every=HOUR)
    schedules.create("morning", task="performBare", cron="0 7 * * 1-5", timezone="Europe/Berlin")
    return ["from code", "morning", "report"]


def states() -> dict[str, str]:
    return {
        each["name"]: each["state"] for each in run("queue_schedules", "list", "--json").json["schedules"]
    }


def test_all_are_listed_with_how_they_stand(made: list[str]) -> None:
    assert states() == {"from code": "new", "morning": "ticking", "report": "ticking"}
    told = run("queue_schedules", "list").out
    for words in (
        "every hour",
        "0 7 * * 1-5 (Europe/Berlin)",
        "task performBare",
        "no queue_scheduler has run",
    ):
        assert words in told
    Rounds().synchronize()
    schedules.pause("morning", "anna: away")
    Schedule.objects.filter(name="report").update(problem="no such type")
    assert states() == {"from code": "ticking", "morning": "paused", "report": "failing"}
    told = run("queue_schedules", "list").out
    assert "anna: away" in told
    assert "no such type" in told


def test_the_reason_that_nothing_happens_is_told(made: list[str]) -> None:
    Rounds().synchronize()
    clock.offset_ms += 2 * 3_600_000
    assert states() == {"from code": "late", "morning": states()["morning"], "report": "late"}
    assert "see that ./manage.py queue_scheduler runs" in run("queue_schedules", "list").out
    Schedule.objects.filter(name="report").update(is_declared=True)
    assert states()["report"] == "undeclared"
    Schedule.objects.filter(name="morning").update(next_at_ms=None)
    assert states()["morning"] == "over"


def test_one_is_shown_with_what_became_of_its_ticks(made: list[str]) -> None:
    task_id = schedules.run("report").task_id
    told = run("queue_schedules", "show", "report").out
    for words in (task_id, "fired", '"text": "hello"', "once, within 366 days", "schedules.create"):
        assert words in told
    [shown] = run("queue_schedules", "show", "report", "--json").json["schedules"]
    assert (shown["payload"]["n"], [tick["task_id"] for tick in shown["ticks"]]) == (1, [task_id])
    assert run("queue_schedules", "show", "from code").code == 0
    missing = run("queue_schedules", "show", "reprot")
    assert (missing.code, "did you mean 'report'?" in missing.err) == (1, True)


def test_some_are_paused_and_resumed(made: list[str]) -> None:
    ran = run("queue_schedules", "pause", "report", "from code", "--by", "anna", "--reason", "the move")
    assert ran.out == "paused: report, from code\n"
    assert schedules.get("from code").paused_note == "by anna: the move"
    assert states() == {"from code": "paused", "morning": "ticking", "report": "paused"}
    ran = run("queue_schedules", "resume", "report", "nobody's", "--json")
    assert (ran.code, ran.json["done"]) == (1, ["report"])
    assert [each["name"] for each in ran.json["skipped"]] == ["nobody's"]
    assert 'there is no schedule "nobody\'s"' in ran.err


def test_one_is_run_now(made: list[str]) -> None:
    ran = run("queue_schedules", "run", "report")
    [tick] = schedules.ticks("report")
    assert ran.out == f"report: created task {tick.task_id}\n"
    again = run("queue_schedules", "run", "report")
    assert (again.code, "is not finished; wait for it, or cancel it" in again.err) == (1, True)
    assert run("queue_schedules", "run", "report", "--anyway", "--json").json["tick"]["state"] == "fired"
    assert tasker.process_queue() == 2


def test_a_time_that_is_past_is_made_up_for(made: list[str]) -> None:
    ran = run(
        "queue_schedules", "run", "morning", "--from", "2026-03-23", "--until", "2026-03-30T00:00+02:00"
    )
    assert ran.out == "morning: 5 ticks that had come to nothing\n"
    told = [tick.at_ms for tick in schedules.ticks("morning")]
    assert len(told) == 5
    ran = run("queue_schedules", "run", "morning", "--from", "2026-03-23", "--until", "2026-03-30", "--json")
    assert ran.json == {"name": "morning", "ticks": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "morning", "--until", "2026-03-30"], "give --from"),
        (["run", "morning", "--from", "2026-03-30", "--anyway"], "give --from"),
    ],
)
def test_what_does_not_go_together(made: list[str], arguments: list[str], said: str) -> None:
    ran = run("queue_schedules", *arguments)
    assert (ran.code, said in ran.err) == (2, True)


def test_what_is_no_time_is_refused() -> None:
    from argparse import ArgumentTypeError

    from zerver.management.commands.queue_schedules import _moment

    for text in ("yesterday", "2026-02-30", "2026-02-30T10:00", ""):
        with pytest.raises(ArgumentTypeError, match="is no time; write it as"):
            _moment(text)
    assert _moment("2026-03-29T02:30+02:00").utcoffset() == timedelta(hours=2)


def test_what_was_made_at_run_time_is_deleted_after_asking(made: list[str]) -> None:
    assert run("queue_schedules", "delete", "report").code == 2
    with at_terminal("n\n"):
        assert run("queue_schedules", "delete", "report").code == 1
    with at_terminal("y\n"):
        assert run("queue_schedules", "delete", "report").out == "deleted: report\n"
    ran = run("queue_schedules", "delete", "from code", "--yes")
    assert (ran.code, "is declared in code; take it out there; or pause it" in ran.err) == (1, True)
    assert set(states()) == {"from code", "morning"}

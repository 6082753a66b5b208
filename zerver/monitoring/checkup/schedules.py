"""Schedules as they stand in the database: does anybody have them tick, and does their work come about?"""

from collections.abc import Iterator, Sequence
from typing import Final

from zerver.lib.counted import counted
from zerver.monitoring.checkup.finding import Finding, Severity
from zerver.monitoring.words import duration
from zerver.schedule.census import ScheduleCensus, Standing

#: So many are told by name; the others are counted.
_MOST_TOLD: Final = 5


def judge(schedules: Sequence[ScheduleCensus]) -> Iterator[Finding]:
    """One finding of all that nobody looks at, and one of all that fail: either has one cause as a rule."""
    late = [each for each in schedules if each.standing is Standing.LATE]
    new = [each for each in schedules if each.standing is Standing.NEW]
    if late or new:
        yield _unattended(late, new)
    failing = [each for each in schedules if each.standing is Standing.FAILING]
    if failing:
        yield _failing(failing)


def _unattended(late: Sequence[ScheduleCensus], new: Sequence[ScheduleCensus]) -> Finding:
    found = [*late, *new]
    names = _told([each.plan.name for each in found])
    longest_ms = max((each.late_ms for each in late), default=0)
    since = f"; a tick has been due for {duration(longest_ms)}" if late else ""
    return Finding(
        code="table.schedules-unattended",
        severity=Severity.PROBLEM if late else Severity.WARNING,
        what=f"{counted(len(found), 'schedule waits', 'schedules wait')} for a queue_scheduler: {names}{since}",
        place="schedules",
        why="without one nothing ticks",
        mend="start one, by its supervisor or by hand: ./manage.py queue_scheduler",
    )


def _failing(found: Sequence[ScheduleCensus]) -> Finding:
    problems = _told([f"{each.plan.name}: {each.why}" for each in found])
    return Finding(
        code="table.schedules-failing",
        severity=Severity.PROBLEM,
        what=f"{counted(len(found), 'schedule fails', 'schedules fail')}: {problems}",
        place="schedules",
        why="no work comes of such a tick",
        mend="mend what it says; each is tried again every minute: ./manage.py queue_schedules list",
    )


def _told(words: Sequence[str]) -> str:
    more = len(words) - _MOST_TOLD
    return "; ".join([*words[:_MOST_TOLD], *([f"and {more} more"] if more > 0 else [])])

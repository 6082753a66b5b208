"""Judging: what did workers fail at, and what waits for a worker, or a scheduler, that does not come?"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zerver.lib.counted import counted
from zerver.lib.shard_names import family_of
from zerver.monitoring.thresholds import Level
from zerver.nagios.database import DueSchedule, Trouble
from zerver.nagios.declared import Declared
from zerver.nagios.ranges import Range, number_text
from zerver.nagios.report import Finding, Metric

#: Any failed event is worth a look, and none by itself a night's sleep.
ANY = Range.up_to(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueThresholds:
    """For how long something may be due before somebody has seen to it. Units: seconds."""

    warning: Range
    critical: Range


#: A task, before it is begun.
OF_TASKS = DueThresholds(warning=Range.up_to(300), critical=Range.up_to(900))
#: A schedule's tick, before its work is published.
OF_SCHEDULES = DueThresholds(warning=Range.up_to(120), critical=Range.up_to(600))


def judge(
    queues: Mapping[str, Declared],
    trouble: Trouble,
    warning: Range,
    critical: Range | None,
    of_tasks: DueThresholds = OF_TASKS,
    of_schedules: DueThresholds = OF_SCHEDULES,
) -> Iterable[Finding]:
    """Counts by the ranges, rows that wait by their queue's own thresholds, tasks and schedules by theirs."""
    failed, suspects = sum(trouble.failed.values()), sum(trouble.suspects.values())
    level = _by(warning, critical, failed + suspects)
    if failed:
        mend = "./manage.py queue_failed list tells why"
        text = f"{counted(failed, 'failed event')} ({_by_queue(trouble.failed)}): {mend}"
        yield Finding(level=level, text=text)
    if suspects:
        what = f"{counted(suspects, 'event')} in quarantine ({_by_queue(trouble.suspects)})"
        yield Finding(
            level=level,
            text=f"{what}: two worker processes or more ended while they had {'it' if suspects == 1 else 'them'}",
        )
    if not failed and not suspects:
        # By a range that asks for more than none, that is a problem too.
        yield Finding(level=level, text="no failed event, and none in quarantine")
    for name, seconds in trouble.due_seconds.items():
        yield _of_row(
            name,
            seconds,
            queues.get(name),
            is_paused=bool({name, family_of(name)}.intersection(trouble.paused)),
        )
    for name, seconds in (trouble.task_due_seconds or {}).items():
        yield _of_task(name, seconds, of_tasks, is_paused=name in trouble.paused)
    for schedule in trouble.due_schedules or ():
        yield _of_schedule(schedule, of_schedules)


def all_well(trouble: Trouble) -> str:
    failed, suspects = sum(trouble.failed.values()), sum(trouble.suspects.values())
    return f"{counted(failed, 'failed event')}, {suspects} in quarantine, and no row that nobody takes"


def metrics(
    trouble: Trouble,
    warning: Range,
    critical: Range | None,
    of_tasks: DueThresholds = OF_TASKS,
    of_schedules: DueThresholds = OF_SCHEDULES,
) -> list[Metric]:
    oldest = max(trouble.due_seconds.values(), default=0.0)
    found = [
        Metric(name="failed", value=sum(trouble.failed.values()), warning=warning, critical=critical),
        Metric(name="quarantined", value=sum(trouble.suspects.values()), warning=warning, critical=critical),
        Metric(name="oldest_due", value=oldest, unit="s"),
    ]
    if trouble.task_due_seconds is not None:
        found.append(_oldest("oldest_due_task", trouble.task_due_seconds.values(), of_tasks))
    if trouble.due_schedules is not None:
        due = [schedule.seconds for schedule in trouble.due_schedules]
        found.append(_oldest("oldest_due_schedule", due, of_schedules))
    return found


def _oldest(name: str, seconds: Iterable[float], thresholds: DueThresholds) -> Metric:
    return Metric(
        name=name,
        value=max(seconds, default=0.0),
        unit="s",
        warning=thresholds.warning,
        critical=thresholds.critical,
    )


def _of_row(name: str, seconds: float, queue: Declared | None, *, is_paused: bool) -> Finding:
    if is_paused:
        # By wish, which is not to be forgotten.
        text = f"queue {name} is paused, and a row of it has been due for {number_text(seconds)} s"
        return Finding(level=Level.WARNING, text=f"{text}: ./manage.py queue_workers resume --queue {name}")
    text = f"queue {name} has a row in the event table that nobody takes, due for {number_text(seconds)} s"
    if queue is None:
        mend = f"disabled here, or not declared: ./manage.py queue_explain {name} tells which"
        return Finding(level=Level.WARNING, text=f"{text}; {mend}")
    level = _by(Range.up_to(queue.warn_seconds), Range.up_to(queue.crit_seconds), seconds)
    if level is Level.OK:
        return Finding(
            level=level, text=f"queue {name}: its next row has been due for {number_text(seconds)} s"
        )
    return Finding(level=level, text=f"{text}: ./manage.py queue_explain {name} tells why")


def _of_task(name: str, seconds: float, thresholds: DueThresholds, *, is_paused: bool) -> Finding:
    told = f"a task of queue {name} has been due for {number_text(seconds)} s"
    if is_paused:
        text = f"queue {name} is paused, and {told}: ./manage.py queue_workers resume --queue {name}"
        return Finding(level=Level.WARNING, text=text)
    level = _by(thresholds.warning, thresholds.critical, seconds)
    if level is Level.OK:
        return Finding(level=level, text=told)
    return Finding(
        level=level,
        text=f"{told}, and nobody has begun it: see that its workers, or the cron of queue_tasks process, run",
    )


def _of_schedule(schedule: DueSchedule, thresholds: DueThresholds) -> Finding:
    told = f"schedule {schedule.name} has been due for {number_text(schedule.seconds)} s"
    level = _by(thresholds.warning, thresholds.critical, schedule.seconds)
    if level is Level.OK:
        return Finding(level=level, text=told)
    if schedule.problem:
        # The mend first: what it fails at may be long.
        text = f"{told}, and fails, see ./manage.py queue_schedules list: {schedule.problem}"
        return Finding(level=level, text=text)
    text = f"{told}, and nobody has had it tick: see that a queue_scheduler runs, and ./manage.py queue_schedules list"
    if schedule.is_declared:
        # Which code there is, no table tells.
        mend = f"./manage.py queue_schedules delete {shlex.quote(schedule.name)}"
        text = f"{text}; where code declares it no more: {mend}"
    return Finding(level=level, text=text)


def _by(warning: Range, critical: Range | None, value: float) -> Level:
    if critical is not None and critical.alerts(value):
        return Level.CRITICAL
    return Level.WARNING if warning.alerts(value) else Level.OK


def _by_queue(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

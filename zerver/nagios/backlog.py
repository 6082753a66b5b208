"""Judging: how far is a queue behind, in seconds, and does anybody get on with it?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from zerver.lib.counted import counted
from zerver.monitoring.thresholds import NOTHING_DONE, Level, backlog_seconds
from zerver.nagios.broker import Seen
from zerver.nagios.declared import Declared
from zerver.nagios.ranges import Range, number_text
from zerver.nagios.report import Finding, Metric
from zerver.nagios.stats import Hung, Told, in_hand

#: Faster than any handler is.
_FASTEST_SECONDS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is known of a queue at this moment; None where nothing can know."""

    seen: Seen
    told: Told
    #: What waits will take at the present pace, or how long the oldest in workers' hands has waited: the larger.
    seconds: float | None
    #: Publish-to-done of the event that was done last.
    lag_seconds: float | None
    #: Since when no worker of this host has said anything; None where one has lately, or none is known that did. Below
    #: 0 where their clock is ahead of ours.
    silent_seconds: float | None
    #: Of this host's workers, those that get nothing done with what they have in hand.
    hung: Sequence[Hung] = ()
    #: And those that had something in hand when they said the last.
    silent: Sequence[Hung] = ()


def measure(queue: Declared, seen: Seen, told: Told, *, now: float) -> Backlog:
    """``ready × mean handling time / handlers``: handlers are those of all hosts, the mean is that of this one."""
    handled = [stats for stats in told.fresh if stats.recent_average_consume_time is not None]
    rate_per_minute = None
    if handled:
        mean = sum(stats.recent_average_consume_time or 0.0 for stats in handled) / len(handled)
        handlers = max(1, seen.consumers or 0) * queue.threads
        rate_per_minute = 60 / max(mean, _FASTEST_SECONDS) * handlers
    waits = [
        stats.oldest_unbegun_seconds + max(0.0, now - stats.update_time)
        for stats in told.fresh
        if stats.oldest_unbegun_seconds is not None
    ]
    lags = [stats.lag_ms / 1000 for stats in told.fresh if stats.lag_ms is not None]
    silent = min((now - stats.update_time for stats in told.old), default=None)
    return Backlog(
        seen=seen,
        told=told,
        seconds=backlog_seconds(
            ready=seen.ready,
            oldest_ms=int(max(waits) * 1000) if waits else None,
            rate_per_minute=rate_per_minute,
            unbegun=sum(stats.unbegun or 0 for stats in told.fresh),
        ),
        lag_seconds=max(lags, default=None),
        silent_seconds=None if told.fresh else silent,
        hung=told.hung(now, patience_seconds=max(queue.crit_seconds, queue.timeout_seconds)),
        silent=told.silent(now),
    )


def judge(queue: Declared, backlog: Backlog, warning: Range, critical: Range) -> list[Finding]:
    """What is found of one queue; the worst counts."""
    return [replace(finding, queue=queue.queue) for finding in _judged(queue, backlog, warning, critical)]


def _judged(queue: Declared, backlog: Backlog, warning: Range, critical: Range) -> list[Finding]:
    seen = backlog.seen
    if not seen.exists:
        text = f"queue {queue.queue} {seen.problem}: start its workers, which declare it"
        return [Finding(level=seen.level, text=text)]
    problems = [
        *(Finding(level=Level.UNKNOWN, text=problem) for problem in backlog.told.problems),
        *_of_single_workers(backlog),
    ]
    if seen.ready is None:
        return [Finding(level=seen.level, text=f"queue {queue.queue}: {seen.problem}"), *problems]
    return [
        _of_progress(queue, seen.ready, backlog) or _of_length(queue, backlog, warning, critical),
        *problems,
    ]


def _of_progress(queue: Declared, ready: int, backlog: Backlog) -> Finding | None:
    """None: somebody gets on with it, or nothing waits."""
    name, told = queue.queue, backlog.told
    if told.paused:
        # By wish, which is not to be forgotten.
        text = (
            f"queue {name} is {told.paused}; {ready} ready: ./manage.py queue_workers resume --queue {name}"
        )
        return Finding(level=Level.WARNING, text=text)
    waiting = f"queue {name}:"
    if ready:
        waiting = f"{waiting} {counted(ready, 'event')} {'waits' if ready == 1 else 'wait'}, and"
    if ready and backlog.seen.consumers == 0:
        return Finding(level=Level.CRITICAL, text=f"{waiting} nobody takes from it: start its workers")
    if backlog.silent_seconds is not None:
        return _of_silence(waiting, backlog.silent_seconds, told)
    reasons = sorted({stats.breaker for stats in told.fresh if stats.breaker})
    if ready and reasons and all(stats.breaker for stats in told.fresh):
        return Finding(level=Level.CRITICAL, text=f"{waiting} its workers take none: {'; '.join(reasons)}")
    if told.fresh and len(backlog.hung) == len(told.fresh):
        seconds = min(hung.seconds for hung in backlog.hung)
        since = f"for {number_text(round(seconds))} s, with {sum(map(in_hand, told.fresh))} in hand"
        mend = "see what their handlers wait for, and restart them"
        return Finding(level=Level.CRITICAL, text=f"{waiting} {NOTHING_DONE} {since}: {mend}")
    return None


def _of_silence(waiting: str, seconds: float, told: Told) -> Finding:
    """Who hangs holds what it held. One that held nothing may as well have been killed, and others may do its work."""
    if seconds < 0:
        text = (
            f"{waiting} the clock of its workers is ahead of this host's by {-seconds:.0f} s: mend the clocks"
        )
        return Finding(level=Level.UNKNOWN, text=text)
    text = f"{waiting} its workers have said nothing for {seconds:.0f} s"
    mend = "see whether they hang, and whether the disk of their .stats files is full"
    if told.held:
        return Finding(level=Level.CRITICAL, text=f"{text}, and had {told.held} in hand then: {mend}")
    mend = f"{mend}; a file that one left which was killed may be removed"
    return Finding(level=Level.UNKNOWN, text=f"{text}, and had nothing in hand then: {mend}")


def _of_single_workers(backlog: Backlog) -> Iterator[Finding]:
    """That hang where others of their host get on: the queue moves, and what these hold does not."""
    fresh = backlog.told.fresh
    if not fresh or len(backlog.hung) == len(fresh):
        return
    for one in backlog.hung:
        yield _of_worker(
            one, f"has got nothing done for {one.seconds:.0f} s, with {in_hand(one.stats)} in hand"
        )
    for one in backlog.silent:
        yield _of_worker(
            one, f"has said nothing for {one.seconds:.0f} s, and had {in_hand(one.stats)} in hand then"
        )


def _of_worker(one: Hung, problem: str) -> Finding:
    stats = one.stats
    who = f"worker {stats.worker_num} of queue {stats.queue} (pid {stats.pid} on {stats.host})"
    mend = "while others get on: end it, and they are given what it holds"
    return Finding(level=Level.WARNING, text=f"{who} {problem}, {mend}")


def _of_length(queue: Declared, backlog: Backlog, warning: Range, critical: Range) -> Finding:
    seconds, ready, lag = backlog.seconds, backlog.seen.ready or 0, backlog.lag_seconds
    if seconds is None:
        text = (
            f"queue {queue.queue}: {counted(ready, 'event')} ready, and how fast they are taken is not known"
        )
        mend = "a worker that has done one tells; see --stats-dir, on the workers' host"
        return Finding(level=Level.UNKNOWN, text=f"{text}: {mend}")
    text = f"queue {queue.queue} is {number_text(seconds)} s behind, {ready} ready"
    if critical.alerts(seconds):
        return Finding(level=Level.CRITICAL, text=text)
    if warning.alerts(seconds):
        return Finding(level=Level.WARNING, text=text)
    # No more than a warning: a retry's waits, and those of an event that was meant for later, are in it too.
    if ready and lag is not None and warning.alerts(lag):
        text += f", and what was done last had been published {number_text(lag)} s before"
        return Finding(level=Level.WARNING, text=text)
    return Finding(level=Level.OK, text=text)


def metrics(queue: Declared, backlog: Backlog, warning: Range, critical: Range) -> list[Metric]:
    return [
        Metric(
            name=f"{queue.queue}_backlog", value=backlog.seconds, unit="s", warning=warning, critical=critical
        ),
        Metric(name=f"{queue.queue}_ready", value=backlog.seen.ready),
        Metric(name=f"{queue.queue}_lag", value=backlog.lag_seconds, unit="s", warning=warning),
    ]

"""Judging: has each queue the consumers that it should have?"""

from zerver.lib.counted import counted
from zerver.monitoring.thresholds import Level
from zerver.nagios.broker import Seen
from zerver.nagios.declared import Declared
from zerver.nagios.ranges import Range
from zerver.nagios.report import Finding, Metric


def usual_ranges(queue: Declared, hosts: int) -> tuple[Range, Range]:
    """Warning and critical: none is critical; fewer are slow, and more may be a worker that was forgotten somewhere."""
    wanted = float(queue.workers * hosts)
    return Range(start=wanted, end=wanted), Range(start=1.0)


def judge(
    queue: Declared, seen: Seen, warning: Range, critical: Range, *, wanted: int, paused: str = ""
) -> Finding:
    """``paused``: see ``stats.Told.paused``; then none is there by wish, which is not to be forgotten."""
    if not seen.exists:
        text = f"queue {queue.queue} {seen.problem}: start its workers, which declare it"
        return Finding(level=seen.level, text=text)
    if seen.consumers is None:
        return Finding(level=seen.level, text=f"queue {queue.queue}: {seen.problem}")
    if paused and not seen.consumers:
        text = f"queue {queue.queue} is {paused}: ./manage.py queue_workers resume --queue {queue.queue}"
        return Finding(level=Level.WARNING, text=text)
    level = (
        Level.CRITICAL
        if critical.alerts(seen.consumers)
        else Level.WARNING
        if warning.alerts(seen.consumers)
        else Level.OK
    )
    broken = critical if level is Level.CRITICAL else warning
    return Finding(level=level, text=_text(queue.queue, seen.consumers, level, broken, wanted))


def _text(queue: str, consumers: int, level: Level, broken: Range, wanted: int) -> str:
    has = f"queue {queue} has {counted(consumers, 'consumer') if consumers else 'no consumer'}"
    if level is Level.OK:
        return has
    if consumers > broken.end:
        return (
            f"{has}, {wanted} declared: another worker shares it, as ./manage.py queue_workers list tells; "
            "or the declarations are old: ./manage.py queue_config declarations --check"
        )
    return f"{has}, {wanted} declared: start its workers; why they ended is in their logs"


def metric(queue: Declared, seen: Seen, warning: Range, critical: Range) -> Metric:
    return Metric(name=queue.queue, value=seen.consumers, warning=warning, critical=critical)

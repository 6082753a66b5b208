"""When a backlog is worth a warning: pure arithmetic, standard library only, for plugins that import no Django."""

import enum


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    #: Nothing can know.
    UNKNOWN = "unknown"


def backlog_seconds(
    *, ready: int | None, oldest_ms: int | None, rate_per_minute: float | None
) -> float | None:
    """How far a queue is behind: how long its oldest event has waited, or what waits will take at the present rate.

    The larger of the two where both are known, since each underrates some backlog: the first a fresh flood, the second
    a lane that nobody takes from. None when neither is.
    """
    if ready == 0:
        return 0.0
    known = []
    if oldest_ms is not None:
        known.append(oldest_ms / 1000)
    if ready is not None and rate_per_minute:
        known.append(ready / rate_per_minute * 60)
    return max(known, default=None)


def judge(seconds: float | None, *, warn_seconds: float, crit_seconds: float) -> Level:
    """A queue's level, by its own thresholds."""
    if seconds is None:
        return Level.UNKNOWN
    if seconds >= crit_seconds:
        return Level.CRITICAL
    return Level.WARNING if seconds >= warn_seconds else Level.OK

"""When a backlog is worth a warning: pure arithmetic, standard library only, for plugins that import no Django."""

import enum
from dataclasses import dataclass


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    #: Nothing can know.
    UNKNOWN = "unknown"


def backlog_seconds(
    *, ready: int | None, oldest_ms: int | None, rate_per_minute: float | None, unbegun: int = 0
) -> float | None:
    """How far a queue is behind: how long its oldest event has waited, or what waits will take at the present rate.

    The larger of the two where both are known, since each underrates some backlog: the first a fresh flood, the second
    a lane that nobody takes from. None when neither is. ``unbegun`` wait in workers' hands, and are behind by their age
    alone: how many they are is told now and then, and a worker that is well has begun them by now.
    """
    if ready == 0 and not unbegun:
        return 0.0
    known = []
    if oldest_ms is not None:
        known.append(oldest_ms / 1000)
    if ready is not None and rate_per_minute:
        known.append(ready / rate_per_minute * 60)
    return max(known, default=None)


#: See ``is_stuck``.
NOTHING_DONE = "its workers get nothing done"


def is_stuck(waiting: int, idle_seconds: float | None, *, patience_seconds: float) -> bool:
    """Something waits, and its workers get nothing done: how old it is cannot be known, but that nobody gets anywhere
    with it can. ``patience_seconds``: the longest that they may be busy with one event, and no less than what is
    critical.
    """
    return bool(waiting) and (idle_seconds or 0) >= patience_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A level and why. The reason is empty where the backlog's length says it all."""

    level: Level
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What is known of a queue when it is judged; None where nothing can know."""

    #: Due and in nobody's hand.
    ready: int | None
    #: Those that wait in a lane that nobody takes from.
    untaken: int
    #: Those of which nobody can tell how long they have waited: a broker does not.
    ready_of_unknown_age: int
    #: See ``backlog_seconds``.
    backlog_seconds: float | None
    #: For so long at least none of its workers has finished anything, although each of them has been there.
    idle_seconds: float | None
    #: By whom it is paused, since when and why; empty where it is not.
    paused: str | None = ""


def judge(
    signs: Signs,
    *,
    warn_seconds: float,
    crit_seconds: float,
    timeout_seconds: float,
    is_expected: bool,
) -> Verdict:
    """A queue's level, by its own thresholds.

    ``timeout_seconds`` is the longest that its workers may be busy with one event. ``is_expected``: workers should be
    there all the time. Where none is meant to be, and none is, what waits is as it should be.
    """
    if signs.paused:
        # On purpose, however much waits; and nothing that anybody should forget.
        return Verdict(level=Level.WARNING, reason=signs.paused)
    if signs.untaken:
        return _of_untaken(signs) if is_expected else _FINE
    patience_seconds = max(crit_seconds, timeout_seconds)
    if is_stuck(signs.ready_of_unknown_age, signs.idle_seconds, patience_seconds=patience_seconds):
        return Verdict(level=Level.CRITICAL, reason=NOTHING_DONE)
    seconds = signs.backlog_seconds
    if seconds is None:
        return Verdict(level=Level.UNKNOWN, reason=_unknown(signs))
    if seconds >= crit_seconds:
        return Verdict(level=Level.CRITICAL)
    return Verdict(level=Level.WARNING) if seconds >= warn_seconds else _FINE


_FINE = Verdict(level=Level.OK)


def _of_untaken(signs: Signs) -> Verdict:
    if signs.paused is None:
        return Verdict(
            level=Level.UNKNOWN, reason="nobody takes from it, and whether it is paused cannot be asked"
        )
    return Verdict(level=Level.CRITICAL, reason="nobody takes from it")


def _unknown(signs: Signs) -> str:
    if signs.ready is None:
        return "not all that waits could be counted"
    return "neither how old they are nor how fast they are taken is known"

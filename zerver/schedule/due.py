"""What is to be done about a schedule's ticks at a moment. Pure: nothing is read, and nothing done."""

from dataclasses import dataclass
from itertools import islice
from typing import Final, assert_never

from zerver.schedule.recurrence import between, latest
from zerver.schedule.values import GRACE_MS, Plan

#: Of ticks that are caught up one by one, so many at a time: a transaction for all would hold everybody up.
_MOST: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Of the ticks until now."""

    #: To happen, the first first.
    ticks: tuple[int, ...]
    #: The first of those that will not; None: there are none.
    missed_from_ms: int | None = None
    #: Until when all has been dealt with then.
    dealt_until_ms: int
    #: Where to go on; it may be past, where there were too many.
    next_at_ms: int | None


def due(plan: Plan, next_at_ms: int | None, now_ms: int, present_since_ms: int | None = None) -> Due:
    """``next_at_ms``: the first tick that has not been dealt with; None: there is none.

    ``present_since_ms``: since when somebody has been at it, and only had too much to do; None: nobody was.

    Raises: NoRecurrence.
    """
    if next_at_ms is None or next_at_ms > now_ms:
        return Due(ticks=(), dealt_until_ms=now_ms, next_at_ms=next_at_ms)
    recurrence = plan.recurrence
    oldest_ms = now_ms - max(GRACE_MS, int(plan.within_seconds * 1000))
    dealt_until_ms = now_ms
    match plan.catch_up:
        case "all":
            found = tuple(islice(between(recurrence, max(next_at_ms, oldest_ms), now_ms), _MOST))
            dealt_until_ms = found[-1] if len(found) == _MOST else now_ms
        case "once" | "skip":
            if plan.catch_up == "skip":
                here_ms = now_ms if present_since_ms is None else min(now_ms, present_since_ms)
                oldest_ms = max(oldest_ms, here_ms - GRACE_MS)
            newest = latest(recurrence, max(next_at_ms, oldest_ms), now_ms)
            found = () if newest is None else (newest,)
        case _:
            assert_never(plan.catch_up)
    is_whole = bool(found) and found[0] == next_at_ms
    return Due(
        ticks=found,
        missed_from_ms=None if is_whole else next_at_ms,
        dealt_until_ms=dealt_until_ms,
        next_at_ms=recurrence.after(dealt_until_ms),
    )

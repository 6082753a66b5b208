"""Times as people read them, the same in tables and in sentences."""

from zerver.lib import clock

#: Stands where nothing is known; it is never a 0.
UNKNOWN = "–"


def duration(milliseconds: float | None) -> str:
    """Three figures at most: ``7 ms``, ``2.4 s``, ``12 min``, ``3.5 h``, ``9 d``; ``–`` when unknown."""
    if milliseconds is None:
        return UNKNOWN
    seconds = milliseconds / 1000
    if seconds < 1:
        return (
            f"{milliseconds:.1f} ms"
            if 0 < milliseconds < 10 and milliseconds % 1
            else f"{milliseconds:.0f} ms"
        )
    for unit, size, limit in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        amount = seconds / size
        if amount < limit:
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def moment(at_ms: int | None) -> str:
    """Shape: ``2026-05-01 12:30:05Z``, or ``–``."""
    return UNKNOWN if at_ms is None else clock.written(at_ms)

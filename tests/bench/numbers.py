"""Numbers for people: three digits that mean something, and no more."""

from __future__ import annotations

from tests.bench.figures import Summary


def short(value: float) -> str:
    """``12,300``, ``123``, ``12.3``, ``1.23``, ``0.012``."""
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        digits = max(0, len(str(int(abs(value)))) - 3)
        return f"{round(value, -digits):,.0f}"
    for limit, places in ((9.995, 1), (0.9995, 2), (0.09995, 3)):
        if abs(value) >= limit:
            return f"{value:.{places}f}"
    return f"{value:.2g}"


def with_spread(summary: Summary) -> str:
    """``12,300 [11,900–13,100]``; the median alone where nothing varies, or there was one round."""
    middle, least, most = short(summary.median), short(summary.least), short(summary.most)
    return middle if least == most else f"{middle} [{least}–{most}]"


def times(ratio: float) -> str:
    """``×1.25``."""
    return f"×{short(ratio)}"

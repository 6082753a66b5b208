"""Ranges, as all plugins take their thresholds.

Source: https://www.monitoring-plugins.org/doc/guidelines.html#THRESHOLDFORMAT
"""

import math
import re
from dataclasses import dataclass
from typing import Self

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"(?P<inside>@)?(?:(?P<start>~|{_NUMBER}):)?(?P<end>{_NUMBER})?", re.ASCII)


def number_text(value: float) -> str:
    """Without an exponent, which not every reader of figures knows."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From ``start`` to ``end``, both within. What is outside alerts; with ``is_inside``, what is within."""

    start: float = 0.0
    end: float = math.inf
    is_inside: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """``10``, ``10:``, ``~:10``, ``10:20``, ``@10:20``. Raises: ValueError."""
        found = _RANGE.fullmatch(text)
        if found is None or (found["start"] is None and found["end"] is None):
            raise ValueError(f"{text!r} is no range: write 10, 10:, ~:10, 10:20 or @10:20")
        start = {None: 0.0, "~": -math.inf}.get(found["start"])
        made = cls(
            start=float(found["start"]) if start is None else start,
            end=math.inf if found["end"] is None else float(found["end"]),
            is_inside=found["inside"] is not None,
        )
        if made.start > made.end:
            raise ValueError(f"{text!r} is no range: it ends before it begins")
        return made

    @classmethod
    def up_to(cls, end: float) -> Self:
        return cls(end=end)

    def alerts(self, value: float) -> bool:
        return (self.start <= value <= self.end) is self.is_inside

    def is_wider_than(self, other: "Range") -> bool:
        """Whatever alerts by it alerts by the other too, and not the other way round."""
        if self.is_inside or other.is_inside:
            return False
        return self != other and self.start <= other.start and self.end >= other.end

    def __str__(self) -> str:
        start = "~:" if self.start == -math.inf else f"{number_text(self.start)}:" if self.start else ""
        end = "" if self.end == math.inf else number_text(self.end)
        return f"{'@' if self.is_inside else ''}{start or ('' if end else '0:')}{end}"

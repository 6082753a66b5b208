"""A histogram of durations that many processes can keep and anybody can add up.

Buckets grow by a fixed ratio, so a quantile is off by less than 5 % over the whole range from 0.1 ms to days, and two
histograms are merged by adding counts. Source: the idea is that of DDSketch (Masson et al., VLDB 2019).
"""

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

_RATIO = 1.1
_LOG_RATIO = math.log(_RATIO)
_FLOOR_MS = 0.1


class Histogram:
    """Counts by bucket. Not thread-safe: each counter of a worker process guards its own."""

    __slots__ = ("_counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: Counter[int] = Counter(counts or {})

    def add(self, duration_ms: float, count: int = 1) -> None:
        """Durations below 0.1 ms, or negative ones by clocks that disagree, count as 0.1 ms."""
        self._counts[_bucket(duration_ms)] += count

    def add_each(self, durations_ms: Iterable[float]) -> None:
        """``add``, once for each."""
        self._counts.update(map(_bucket, durations_ms))

    def merge(self, other: "Histogram") -> None:
        """Add another's counts to this one's."""
        self._counts.update(other._counts)

    def since(self, earlier: "Histogram") -> "Histogram":
        """What has been added since an earlier reading of the same histogram."""
        return Histogram(self._counts - earlier._counts)

    @property
    def count(self) -> int:
        return self._counts.total()

    @property
    def sum_ms(self) -> float:
        """All durations together, as well as the buckets tell: off by less than 5 %. The same for the same counts,
        in whichever order they came: a sum that falls by a rounding would be taken for one that began anew.
        """
        return math.fsum(_middle_ms(bucket) * count for bucket, count in self._counts.items())

    def up_to(self, limits_ms: Sequence[float]) -> list[int]:
        """How many stayed under each of these rising limits; a bucket that a limit cuts counts as over it."""
        found = [0] * len(limits_ms)
        for bucket, count in self._counts.items():
            first = bisect_left(limits_ms, _FLOOR_MS * _RATIO**bucket)
            if first < len(limits_ms):
                found[first] += count
        return list(accumulate(found))

    def quantile(self, share: float) -> float | None:
        """The duration that ``share`` of all stay under, 0 < share <= 1. Units: milliseconds; None when empty."""
        wanted = math.ceil(self.count * share)
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return _middle_ms(bucket)
        return None

    def to_json(self) -> str:
        """Shape: ``{"bucket": count}``."""
        return json.dumps({str(bucket): count for bucket, count in sorted(self._counts.items())})

    @classmethod
    def from_json(cls, text: str | None) -> "Histogram":
        """None, where nobody tells, is an empty one."""
        return cls({int(bucket): int(count) for bucket, count in json.loads(text or "{}").items()})


def _bucket(duration_ms: float) -> int:
    return int(math.log(duration_ms / _FLOOR_MS) / _LOG_RATIO) + 1 if duration_ms > _FLOOR_MS else 0


def _middle_ms(bucket: int) -> float:
    """The value in a bucket that is at most 5 % from either edge."""
    if bucket == 0:
        return _FLOOR_MS
    return float(_FLOOR_MS * _RATIO ** (bucket - 0.5))

"""How fast something grows, in spite of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import NormalDist, median

#: Points are thinned to so many by medians: what goes up and down within seconds is gone then, and neighbours are
#: nearly independent of each other, as the interval wants them.
MOST_POINTS = 60

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Units: of y for one of x."""

    middle: float
    #: Of the interval that holds the true slope with the confidence asked for.
    low: float
    high: float

    def times(self, factor: float) -> Slope:
        return Slope(middle=self.middle * factor, low=self.low * factor, high=self.high * factor)


def fit(points: Sequence[Point], confidence: float = 0.95) -> Slope:
    """The median of the slopes of all pairs of points: a third of them may be wild without moving it much.

    Shape: at least three points of different x.
    Source: Theil and Sen; the interval as in Hollander and Wolfe, Nonparametric Statistical Methods, chapter 9.3.
    """
    thinned = thin(points)
    slopes = sorted((y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in combinations(thinned, 2))
    if len(thinned) < 3:
        raise ValueError(f"a slope of {len(thinned)} points")
    count = len(thinned)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * deviation
    first = max(0, math.floor((len(slopes) - margin) / 2))
    last = min(len(slopes) - 1, math.ceil((len(slopes) + margin) / 2))
    return Slope(middle=median(slopes), low=slopes[first], high=slopes[last])


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """As many points at most, each the median of its neighbours."""
    count = min(most, len(points))
    edges = [round(number * len(points) / count) for number in range(count + 1)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [(median(x for x, _ in part), median(y for _, y in part)) for part in parts]

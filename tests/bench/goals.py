"""The ratios that are promised, and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.figures import FIGURES, Summary, ratios
from tests.bench.result import Part, Result

OURS = "zerver"
#: Instead of a peer: whoever of them does best, in the median; the limit aside, which is no peer.
BEST = "the best peer"
LIMIT = "C"


def ours_of(parts: Mapping[str, object]) -> str:
    """Ours among who took part in a case: on the event table alone it goes by another name."""
    return next((name for name in parts if name.startswith(f"{OURS}-")), OURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Ours by another's is at least, or at most, so much; without another, ours itself."""

    case: str
    figure: str
    than: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def words(self) -> str:
        """``at least 30 × celery``."""
        bound, value = ("at least", self.at_least) if self.at_least is not None else ("at most", self.at_most)
        assert value is not None
        unit = FIGURES[self.figure].unit
        return f"{bound} {value:.3g} × {self.than}" if self.than else f"{bound} {value:g} {unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    goal: Goal
    #: In the unit of the figure, or a ratio, round by round; None where ours or theirs was not measured.
    measured: Summary | None

    @property
    def is_met(self) -> bool | None:
        """By the median."""
        if self.measured is None:
            return None
        if self.goal.at_least is not None:
            return self.measured.median >= self.goal.at_least
        assert self.goal.at_most is not None
        return self.measured.median <= self.goal.at_most


def judge(result: Result) -> list[Verdict]:
    """Goals of the cases that were run."""
    return [
        Verdict(goal=goal, measured=_measured(goal, result.parts[goal.case]))
        for goal in GOALS
        if goal.case in result.parts
    ]


def _measured(goal: Goal, parts: dict[str, Part]) -> Summary | None:
    ours = parts.get(ours_of(parts))
    if ours is None:
        return None
    if goal.than is None:
        return ours.summaries.get(goal.figure)
    than = _best(goal.figure, parts) if goal.than == BEST else goal.than
    theirs = parts.get(than) if than is not None else None
    return ratios(ours.rounds, theirs.rounds, goal.figure) if theirs is not None else None


def _best(figure: str, parts: dict[str, Part]) -> str | None:
    medians = {
        name: part.summaries[figure].median
        for name, part in parts.items()
        if name not in (ours_of(parts), LIMIT) and figure in part.summaries
    }
    choose = max if FIGURES[figure].more_is_better else min
    return choose(medians, key=lambda name: medians[name]) if medians else None


GOALS = (
    Goal(case="drain", figure="rate", than="C", at_least=0.5),
    Goal(case="drain", figure="rate", than="celery", at_least=30),
    Goal(case="drain", figure="rate", than="dramatiq", at_least=20),
    Goal(case="drain", figure="rate", than="pika", at_least=6),
    Goal(case="waiting", figure="of_ideal", at_least=0.8),
    Goal(case="prefetch-fast", figure="rate", than="prefetch-1000", at_least=0.8),
    Goal(case="prefetch-slow", figure="of_ideal", at_least=0.8),
    Goal(case="publish-many", figure="rate", than="C", at_least=0.6),
    Goal(case="publish-many", figure="rate", than="celery", at_least=15),
    Goal(case="publish-one", figure="p50_ms", than="pika", at_most=1),
    Goal(case="publish-threads", figure="speedup", at_least=10),
    Goal(case="latency", figure="p50_ms", than="celery", at_most=0.5),
    Goal(case="latency", figure="p99_ms", than=BEST, at_most=1),
    Goal(case="idle", figure="rss_mb", at_most=45),
    Goal(case="idle-10-queues", figure="rss_mb", at_most=60),
    # A forgotten object would be a hundred bytes and more.
    Goal(case="growth", figure="growth_b", at_most=8),
    Goal(case="publish-one-sqlite", figure="p50_ms", than="huey", at_most=1),
    Goal(case="publish-one-sqlite", figure="p50_ms", than="django-tasks-db", at_most=1 / 6),
    Goal(case="publish-one-sqlite", figure="p50_ms", than="django-q2", at_most=1 / 50),
    Goal(case="drain-sqlite", figure="rate", than="huey", at_least=4),
    Goal(case="drain-sqlite", figure="rate", than="django-tasks-db", at_least=100),
    Goal(case="drain-sqlite", figure="rate", than="django-q2", at_least=100),
    Goal(case="publish-one-postgresql", figure="p50_ms", than="procrastinate", at_most=0.5),
    Goal(case="publish-many-postgresql", figure="rate", than="procrastinate", at_least=2),
    Goal(case="drain-postgresql", figure="rate", than="procrastinate", at_least=2),
)

#: Why a goal is missed where it is, by case and figure: what the profile of the case ``profile``, and the tables, say.
WHY_NOT: Mapping[tuple[str, str], str] = {
    ("drain", "rate"): (
        "an event takes a worker's threads the time that *Where a worker's time goes* takes apart, nearly all of it"
        " under one interpreter's lock. The program in C takes a fraction of that, and waits for the broker. Where"
        " processors are few, the broker works beside the worker, and what is shared with it (caches, halves of a core)"
        " makes each step of Python longer than it is alone."
    ),
    ("publish-threads", "speedup"): (
        "one thread's publish already takes most of its time in processors, the broker's and ours, as its table tells:"
        " there is little waiting that others could use. With processors to spare the ratio grows."
    ),
    ("publish-one", "p50_ms"): (
        "both wait for the same confirm, which is the most of it. pika's blocking connection sends and reads in the"
        " caller's thread; ours hands the event to the thread that has the connection, and is woken by it. One caller"
        " alone pays for these two changes of thread; where there are many, they share them."
    ),
    ("publish-many", "rate"): (
        "an event is looked through for what JSON cannot carry, encoded, and given an id and headers, which the program"
        " in C has ready; with large events that is most of the difference. And of one queue 200 are on their way at"
        " most, so that one that stands still never holds up the others on its connection, where C has 1,000."
    ),
    ("latency", "p50_ms"): (
        "half of it is the broker's, and what the system takes to wake somebody: see the program in C. The rest is"
        " Python that is woken in turn in two processes, and finds its caches cold at 200 events a second."
    ),
    ("latency", "p99_ms"): (
        "the slowest of a hundred are those that come upon something else on the same processors, the disk's flush for"
        " one; from round to round it moves by more than the peers differ."
    ),
    ("idle", "rss_mb"): (
        "most of it is Django's and the database driver's, before anything of ours, pika's or msgspec's is loaded: see"
        " Django alone in the table, with a connection to PostgreSQL open as a worker's is."
    ),
    ("idle-10-queues", "rss_mb"): "as for one queue: the other nine add little to it.",
    ("publish-one-sqlite", "p50_ms"): (
        "one publish is one commit that the disk must confirm, for everybody: see the bare INSERT of the same row in"
        " the table. What we take beyond that is the processor's: the look through the event for what JSON cannot"
        " carry, its encoding, the way to the statement. Nobody who stores such a row can be faster than the INSERT,"
        " be it by a sixth of a peer's time or by a fiftieth."
    ),
    ("drain-sqlite", "rate"): (
        "ours takes as long for an event as its table tells; a peer that is quick on this disk brings the ratio down."
    ),
    ("publish-one-postgresql", "p50_ms"): (
        "one publish is one commit that the disk must confirm, theirs and ours: see the bare INSERT of the same row in"
        " the table."
    ),
}

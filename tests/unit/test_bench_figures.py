"""What scripts/bench makes of its measurements, without measuring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.cases import CASES
from tests.bench.cases.latency import latencies
from tests.bench.events import SMALL_BYTES, Templates, write_templates
from tests.bench.figures import FIGURES, Summary, latency_figures, percentile, ratios, summaries
from tests.bench.goals import BEST, GOALS, WHY_NOT
from tests.bench.job import Job
from tests.bench.ledger import Ledger
from tests.bench.peers import PEERS


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.999, 100), (1, 100), (0.001, 1), (0.011, 2)]
)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_of_a_single_value_every_percentile_is_that_value() -> None:
    assert [percentile([7.0], share) for share in (0.01, 0.5, 1)] == [7.0, 7.0, 7.0]


def test_the_thousandth_part_is_told_of_a_thousand_values_at_least() -> None:
    assert latency_figures([2_000_000] * 999) == {"p50_ms": 2.0, "p99_ms": 2.0}
    assert latency_figures([2_000_000] * 1000) == {"p50_ms": 2.0, "p99_ms": 2.0, "p999_ms": 2.0}


def test_a_summary_is_of_the_figures_that_every_round_has() -> None:
    rounds = [{"rate": 10.0, "p999_ms": 3.0}, {"rate": 30.0}, {"rate": 20.0, "p999_ms": 4.0}]
    assert summaries(rounds) == {"rate": Summary(median=20.0, least=10.0, most=30.0)}
    assert summaries([]) == {}


def test_ratios_are_of_neighbouring_rounds() -> None:
    # In the second round the machine was half as fast, for both.
    ours, theirs = [{"rate": 100.0}, {"rate": 50.0}, {"rate": 120.0}], [{"rate": 10.0}, {"rate": 5.0}]
    assert ratios(ours, theirs, "rate") == Summary(median=10.0, least=10.0, most=10.0)


@pytest.mark.parametrize("theirs", [[], [{"p50_ms": 1.0}], [{"rate": 0.0}]])
def test_there_is_no_ratio_to_what_was_not_measured(theirs: list[dict[str, float]]) -> None:
    assert ratios([{"rate": 1.0}], theirs, "rate") is None


def test_events_of_a_burst_are_due_together() -> None:
    job = Job(verb="paced", first=11, count=6, per_second=1000.0, burst=2)
    assert [job.due_ns(5, number) - 5 for number in range(11, 17)] == [
        0,
        0,
        2_000_000,
        2_000_000,
        4_000_000,
        4_000_000,
    ]


def test_latency_counts_from_when_an_event_was_due() -> None:
    job = Job(verb="paced", first=3, count=2, per_second=1000.0)
    assert latencies(job, 100, [1_100, 1_003_100]) == [1_000, 3_000]


def test_a_job_survives_the_way_to_its_process() -> None:
    job = Job(verb="one", first=3, count=5, threads=32)
    assert Job.of_json(job.to_json()) == job


def test_events_are_as_large_as_they_are_said_to_be(tmp_path: Path) -> None:
    def sizes(kind: str) -> list[int]:
        write_templates(kind, tmp_path / kind)
        events = Templates(tmp_path / kind).events(100_000, 64)
        return sorted(len(json.dumps(event, separators=(",", ":"))) for event in events)

    assert set(sizes("small")) == {SMALL_BYTES}
    webhooks = sizes("webhooks")
    assert 7_000 < webhooks[0] < webhooks[32] < webhooks[-1] < 10_000


def test_a_ledger_tells_what_was_not_handled(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "ledger", 5)
    same = Ledger(tmp_path / "ledger")
    same.slots[1], same.slots[4] = 7, 8
    assert (ledger.unhandled(0, 5), ledger.unhandled(1, 1), ledger.unhandled(2, 3)) == (3, 0, 2)
    for each in (ledger, same):
        each.close()


def test_whoever_takes_part_in_a_case_is_known() -> None:
    assert {peer for case in CASES.values() for peer in case.peers} <= PEERS.keys()
    assert {figure for case in CASES.values() for figure in case.figures} <= FIGURES.keys()


def test_goals_are_of_cases_peers_and_figures_that_there_are() -> None:
    for goal in GOALS:
        assert goal.figure in CASES[goal.case].figures, goal
        assert goal.than in (None, BEST, *CASES[goal.case].peers), goal
        assert (goal.at_least is None) != (goal.at_most is None), goal
    assert set(WHY_NOT) <= {(goal.case, goal.figure) for goal in GOALS}

"""What scripts/bench tells: the table, the document, the goals, and the comparison with an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.compare import compare
from tests.bench.figures import Summary
from tests.bench.goals import judge
from tests.bench.numbers import short, with_spread
from tests.bench.report.document import to_markdown
from tests.bench.report.rows import troubles
from tests.bench.report.text import to_text
from tests.bench.result import CaseTold, Part, PeerTold, Result

DRAIN = CaseTold(
    title="Drain, one worker process",
    group="Drain",
    how="It is drained.",
    setting="quorum queue",
    figures=["rate", "cpu_us"],
)


def rounds(*rates: float) -> list[dict[str, float]]:
    return [{"rate": rate, "cpu_us": 1e6 / rate} for rate in rates]


def result(**parts: Part) -> Result:
    return Result(
        day="2026-01-31",
        machine={"processors": "2 × abacus"},
        is_quick=False,
        rounds=3,
        minutes=12.0,
        others=0.1,
        peers={name: PeerTold(title=name, settings=["as it is"], versions={name: "1.0"}) for name in parts},
        cases={"drain": DRAIN},
        parts={"drain": dict(parts)},
    )


WHOLE = result(
    zerver=Part(rounds=rounds(30_000, 20_000, 31_000)),
    pika=Part(rounds=rounds(5_000, 4_000, 5_000)),
    celery=Part(trouble="it is\nnot installed | at all"),
    C=Part(rounds=rounds(60_000, 30_000, 61_000)),
)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (123_456, "123,000"),
        (12_345, "12,300"),
        (999.6, "1,000"),
        (123.4, "123"),
        (99.97, "100"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
        (0.01234, "0.012"),
        (0, "0"),
        (-12.34, "-12.3"),
    ],
)
def test_numbers_have_three_digits_that_mean_something(value: float, told: str) -> None:
    assert short(value) == told


def test_a_spread_is_told_where_there_is_one() -> None:
    assert with_spread(Summary(median=2.0, least=1.0, most=3.0)) == "2.00 [1.00–3.00]"
    assert with_spread(Summary(median=2.0, least=2.0, most=2.0)) == "2.00"


def test_the_table_tells_every_peer_with_ours_by_theirs_and_why_one_is_missing() -> None:
    lines = [" ".join(line.split()) for line in to_text(WHOLE).splitlines()]
    assert "zerver 30,000 [20,000–31,000] 33.3 [32.3–50.0]" in lines
    assert "pika 5,000 [4,000–5,000] 200 [200–250] ×6.00" in lines
    assert "not measured: celery: it is not installed | at all" in lines


def test_one_reason_is_told_once_for_all_who_have_it() -> None:
    late = Part(rounds=rounds(1_000), trouble="no time")
    assert troubles({"a": late, "b": Part(trouble="no time"), "c": Part(rounds=rounds(1))}) == {
        "a (after 1 rounds), b": "no time"
    }


def test_a_case_in_which_nobody_was_measured_has_no_table() -> None:
    nobody = result(zerver=Part(trouble="no time"), C=Part(trouble="no time"))
    assert "Drain, one worker process (quorum queue)\nnot measured: zerver, C: no time" in to_text(nobody)
    assert "- not measured: zerver, C: no time" in to_markdown(nobody)


def test_goals_are_judged_by_the_median_of_ratios_and_told_as_not_measured_without_one() -> None:
    met = {verdict.goal.than: verdict.is_met for verdict in judge(WHOLE)}
    assert met == {"C": True, "celery": None, "dramatiq": None, "pika": True}
    slow = replace(
        WHOLE, parts={"drain": {**WHOLE.parts["drain"], "zerver": Part(rounds=rounds(20_000, 19_000))}}
    )
    assert {verdict.goal.than: verdict.is_met for verdict in judge(slow)}["pika"] is False
    assert to_markdown(slow).count("- **drain**, events/s: ") == 1, "the reason, once for all"


def test_the_document_has_machine_goals_tables_reasons_and_settings() -> None:
    text = to_markdown(WHOLE, {"drain"})
    assert "| processors | 2 × abacus |" in text
    assert "| drain | events/s | at least 6 × pika | 6.00 [5.00–6.20] | yes |" in text
    assert "| drain | events/s | at least 30 × celery | – | not measured |" in text
    assert "![Drain, one worker process](performance/drain.svg)" in text
    assert "| pika | 5,000 [4,000–5,000] | 200 [200–250] | ×6.00 |" in text
    assert "- not measured: celery: it is not installed \\| at all" in text
    assert "**pika** (pika): pika 1.0" in text
    assert "Why those that are not met" not in text
    assert "10% of the processors' time" in text


def test_goals_are_told_as_earlier_runs_found_them_too() -> None:
    slow = replace(WHOLE, parts={"drain": {**WHOLE.parts["drain"], "zerver": Part(rounds=rounds(20_000))}})
    alone = replace(WHOLE, day="2026-01-30", parts={"drain": {"zerver": Part(rounds=rounds(20_000))}})
    text = to_markdown(WHOLE, earlier=[slow, alone])
    assert "| met? | in another run | in another run |" in text
    assert "| drain | events/s | at least 6 × pika | 6.00 [5.00–6.20] | yes | 4.00, **no** | – |" in text
    assert "each whole and by itself: 2026-01-31, 12 minutes; 2026-01-30, 12 minutes." in text
    assert text.count("- **drain**, events/s: ") == 1, "why it is not met in one of them is told, too"


def test_figures_of_a_busy_machine_and_of_a_quick_run_are_called_what_they_are() -> None:
    told = "No figure here is worth quoting"
    assert told not in to_markdown(WHOLE)
    for doubtful in (replace(WHOLE, others=0.5), replace(WHOLE, is_quick=True)):
        assert told in to_markdown(doubtful)
        assert told in to_text(doubtful)


def test_a_result_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    WHOLE.write(tmp_path / "deep" / "result.json")
    assert Result.read(tmp_path / "deep" / "result.json") == WHOLE


def test_a_comparison_says_new_by_old_and_what_is_worse_than_the_weather() -> None:
    slow = result(zerver=Part(rounds=rounds(15_000)), pika=Part(rounds=rounds(5_100)))
    lines = [" ".join(line.split()) for line in compare(slow, WHOLE).splitlines()]
    assert "drain rate 30,000 → 15,000 /s ×0.500 (×1.02) WORSE" in lines
    assert "drain cpu_us 33.3 → 66.7 µs ×2.00 (×0.980) WORSE" in lines


def test_what_became_slow_as_the_peers_did_is_not_called_worse() -> None:
    busy = result(
        zerver=Part(rounds=rounds(15_000)), pika=Part(rounds=rounds(2_600)), C=Part(rounds=rounds(29_000))
    )
    lines = [" ".join(line.split()) for line in compare(busy, WHOLE).splitlines()]
    assert "drain rate 30,000 → 15,000 /s ×0.500 (×0.502)" in lines


def test_a_comparison_without_peers_goes_by_ours_alone() -> None:
    lines = compare(result(zerver=Part(rounds=rounds(60_000))), WHOLE).splitlines()
    assert "drain rate 30,000 → 60,000 /s ×2.00 better" in [" ".join(line.split()) for line in lines]


def test_a_comparison_of_nothing_in_common_says_so() -> None:
    assert "nothing of zerver in common" in compare(replace(WHOLE, parts={}), WHOLE)

"""In which order scripts/bench takes cases and peers, and what becomes of those who fail."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tests.bench.__main__ import parse
from tests.bench.case import Case
from tests.bench.cases import CASES
from tests.bench.figures import Figures
from tests.bench.measure import INTERRUPTED, TIME_IS_UP, measure, turns
from tests.bench.peer import CannotRunError, Peer
from tests.bench.peers import PEERS
from tests.bench.report.progress import Progress
from tests.bench.result import Part
from tests.bench.site import Site

ZERVER, PIKA, C = (PEERS[name] for name in ("zerver", "pika", "C"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Case):
    """Ends for each peer as it is told to."""

    ends: dict[str, BaseException]

    group: ClassVar[str] = "Told"
    how: ClassVar[str] = ""
    figures: ClassVar[tuple[str, ...]] = ("rate",)

    def measure(self, site: Site, peer: Peer) -> Figures:
        if peer.name in self.ends:
            raise self.ends[peer.name]
        return {"rate": 1.0}


def run(ends: dict[str, BaseException], *, deadline: float = math.inf) -> dict[str, Part]:
    case = Told(name="told", title="Told", peers=("zerver", "pika"), ends=ends)
    return measure([(case, [ZERVER, PIKA])], 2, Site(scale=1), Progress(4), deadline)[0]["told"]


def test_turns_are_interleaved_and_everybody_begins_in_turn() -> None:
    found = [(turn.peer.name, turn.number) for turn in turns([(CASES["drain"], [ZERVER, PIKA, C])], 3)]
    assert "".join(name[0] for name, _ in found) == "zpCpCzCzp"
    assert Counter(found) == Counter(
        (name, number) for number in range(3) for name in ("zerver", "pika", "C")
    )


def test_every_case_has_a_round_before_any_has_two_and_no_more_than_it_asks_for() -> None:
    drain, idle = CASES["drain"], CASES["idle"]
    assert idle.most_rounds == 2
    found = [turn.case.name for turn in turns([(drain, [ZERVER]), (idle, [ZERVER]), (drain, [])], 3)]
    assert found == ["drain", "idle", "drain", "idle", "drain"]


@pytest.fixture(autouse=True)
def c_and_peers_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr(Peer, "missing", lambda self, setting: None)


def test_who_fails_is_out_with_the_reason_and_the_others_go_on() -> None:
    parts = run({"zerver": ValueError("no luck")})
    assert parts["zerver"] == Part(trouble="ValueError: no luck", has_failed=True)
    assert parts["pika"] == Part(rounds=[{"rate": 1.0}] * 2)


def test_who_fails_once_has_a_round_less() -> None:
    ends = {"zerver": ValueError("bad luck")}
    case = Told(name="told", title="Told", peers=("zerver",), ends=ends)

    class Forgiving(Progress):
        def tell(self, *told: object) -> None:
            ends.clear()

    parts = measure([(case, [ZERVER])], 2, Site(scale=1), Forgiving(2), math.inf)[0]["told"]
    assert parts["zerver"] == Part(rounds=[{"rate": 1.0}])
    ends["zerver"] = ValueError("bad luck")
    assert measure([(case, [ZERVER])], 1, Site(scale=1), Forgiving(1), math.inf)[0]["told"]["zerver"] == Part(
        trouble="ValueError: bad luck", has_failed=True
    )


def test_a_lack_that_is_known_is_no_failure() -> None:
    assert run({"pika": CannotRunError("it has no such thing")})["pika"] == Part(
        trouble="it has no such thing"
    )


def test_what_there_was_no_time_for_is_told() -> None:
    assert run({}, deadline=0.0)["pika"] == Part(trouble=TIME_IS_UP)


def test_an_interruption_loses_nothing_of_what_was_measured() -> None:
    parts = run({"pika": KeyboardInterrupt()})
    assert parts == {"zerver": Part(rounds=[{"rate": 1.0}]), "pika": Part(trouble=INTERRUPTED)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "huey", "--case", "drain"], "huey takes no part in any of these cases"),
        (["--quick", "--scale"], "--scale comes first"),
        (["--docs", "/proc/nowhere"], "/proc/nowhere cannot be written to"),
        (["--rounds", "0"], "no number of rounds"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err

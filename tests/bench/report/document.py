"""A result as docs/performance.md, which nobody types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.bench.figures import FIGURES
from tests.bench.goals import GOALS, WHY_NOT, Verdict, judge
from tests.bench.numbers import short, with_spread
from tests.bench.report.rows import rows, troubles
from tests.bench.result import CaseTold, Result

NOT_KNOWN = "nobody has looked into that."
#: Beside the document: its plots.
PLOTS = "performance"

INTRODUCTION = """\
# Performance

<!-- Written by scripts/bench: run it again instead of editing. -->

What zerver does beside its peers, on one machine, in one run of `./scripts/bench`, which sets up the peers in an
environment of their own and starts a private RabbitMQ and PostgreSQL. Broker, database, publishers and workers share
its processors, so these are no figures of what a broker can do on a machine of its own; the *ratios* are what to look
at. Rounds are interleaved, A B C A B C …; what is told is the median [least–most] of the rounds. The last column is
zerver's first figure divided by that of the peer, the median of such ratios of neighbouring rounds. Every event of
every round was seen to be handled, or to be on the broker, or the round does not count. Differences under a quarter
mean little. Peers do more or less for an event than zerver does: these are costs, and no list of features.
"""


def to_markdown(result: Result, drawn: Iterable[str] = (), earlier: Sequence[Result] = ()) -> str:
    """``drawn``: the cases that have a plot. ``earlier``: runs that the goals are also told of."""
    sections = [
        INTRODUCTION,
        _where(result),
        _goals(judge(result), earlier),
        *_groups(result, set(drawn)),
        _peers(result),
    ]
    return "\n".join(section for section in sections if section)


def _where(result: Result) -> str:
    machine = "\n".join(f"| {name} | {told} |" for name, told in result.machine.items())
    doubt = f"**No figure here is worth quoting: {result.doubt}.**\n\n" if result.doubt else ""
    rounds = "one round" if result.rounds == 1 else f"up to {result.rounds} rounds"
    return (
        "## Where and when\n\n"
        f"{doubt}{result.day}, {rounds}, {result.minutes:.0f} minutes. Meanwhile"
        f" {result.others:.0%} of the processors' time went to others than the bench and its servers.\n\n"
        f"| | |\n|---|---|\n{machine}\n"
    )


def _goals(verdicts: Sequence[Verdict], earlier: Sequence[Result]) -> str:
    if not verdicts:
        return ""
    by_run = [{verdict.goal: verdict for verdict in judge(run)} for run in earlier]
    head = ["case", "figure", "goal", "measured", "met?"]
    table = [
        [
            verdict.goal.case,
            FIGURES[verdict.goal.figure].title,
            verdict.goal.words(),
            with_spread(verdict.measured) if verdict.measured else "–",
            _met(verdict),
            *(_told_before(run.get(verdict.goal)) for run in by_run),
        ]
        for verdict in verdicts
    ]
    head += ["in another run"] * len(by_run)
    runs = [f"{run.day}, {run.minutes:.0f} minutes" for run in earlier]
    told = f" Other runs, each whole and by itself: {'; '.join(runs)}." if runs else ""
    return (
        f"## Goals\n\nAs ratios, zerver's by the other's, where another is named.{told}\n\n"
        + "\n".join([_row(head), "|---" * len(head) + "|", *map(_row, table)])
        + "\n"
        + _reasons([*verdicts, *(verdict for run in by_run for verdict in run.values())])
    )


def _told_before(verdict: Verdict | None) -> str:
    """The median, and whether that was enough; – where it was not measured."""
    if verdict is None or verdict.measured is None:
        return "–"
    return f"{short(verdict.measured.median)}, {_met(verdict)}"


def _reasons(verdicts: Sequence[Verdict]) -> str:
    """Why goals are not met, each reason once, in the order of the goals. Of all runs that are told."""
    unmet = {verdict.goal for verdict in verdicts if verdict.is_met is False}
    missed = dict.fromkeys((goal.case, goal.figure) for goal in GOALS if goal in unmet)
    told = [
        f"- **{case}**, {FIGURES[figure].title}: {WHY_NOT.get((case, figure), NOT_KNOWN)}"
        for case, figure in missed
    ]
    return (
        "\nWhy those that are not met, be it in one run, are not:\n\n" + "\n".join(told) + "\n"
        if told
        else ""
    )


def _met(verdict: Verdict) -> str:
    return {True: "yes", False: "**no**", None: "not measured"}[verdict.is_met]


def _groups(result: Result, drawn: set[str]) -> Iterable[str]:
    """A section a group, with the cases in their order."""
    told: dict[str, list[str]] = {}
    for name, case in result.cases.items():
        told.setdefault(case.group, []).append(name)
    for group, names in told.items():
        parts = [f"## {group}\n"]
        how = None
        for name in names:
            case = result.cases[name]
            if case.how != how:
                parts.append(f"{case.how}\n")
                how = case.how
            parts.append(_case(result, name, name in drawn))
        yield "\n".join(parts)


def _case(result: Result, name: str, is_drawn: bool) -> str:
    case: CaseTold = result.cases[name]
    lines = [f"### {case.title}", "", f"`{name}`: {case.setting}.", ""]
    if is_drawn:
        lines += [f"![{case.title}]({PLOTS}/{name}.svg)", ""]
    if table := rows(case, result.parts[name]):
        head, *others = table
        lines += [_row(head), "|---" * len(head) + "|", *map(_row, others), ""]
    if missing := troubles(result.parts[name]):
        lines += [*(f"- not measured: {peers}: {_escaped(reason)}" for peers, reason in missing.items()), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _peers(result: Result) -> str:
    parts = ["## Who, and with which settings\n"]
    for name, peer in result.peers.items():
        versions = ", ".join(f"{package} {version}" for package, version in peer.versions.items())
        parts.append(f"**{name}** ({peer.title}){f': {versions}' if versions else ''}\n")
        parts.append("\n".join(f"- {line}" for line in peer.settings) + "\n")
    return "\n".join(parts)

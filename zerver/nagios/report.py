"""What a plugin says: a line with the worst of it and the figures, and lines with all of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from zerver.lib.printable import printable, shortened
from zerver.monitoring.thresholds import Level
from zerver.nagios.ranges import Range, number_text

EXIT_CODES = {Level.OK: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}
#: The worst first. What nobody can know may be critical, and a warning is known not to be.
_WORST_FIRST = (Level.CRITICAL, Level.UNKNOWN, Level.WARNING, Level.OK)
#: Told in the first line; the others are counted there, and told below it.
_TOLD_FIRST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure for graphs. Names are of letters, digits and _, so that none needs quotes."""

    name: str
    #: None: nothing can know.
    value: float | None
    #: ``s``, or empty for a count.
    unit: str = ""
    warning: Range | None = None
    critical: Range | None = None

    def __str__(self) -> str:
        value = "U" if self.value is None else f"{number_text(self.value)}{self.unit}"
        return f"{self.name}={value};{self.warning or ''};{self.critical or ''};0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, and how it is."""

    level: Level
    text: str
    #: Of which alone it tells; empty: of all that were asked for.
    queue: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    findings: Sequence[Finding]
    #: What the first line says when all is well.
    all_well: str
    metrics: Sequence[Metric] = ()

    @property
    def level(self) -> Level:
        """Of the worst finding."""
        return min((finding.level for finding in self.findings), key=_WORST_FIRST.index, default=Level.OK)

    def of(self, queue: str) -> "Report":
        """What it says of one queue."""
        findings = [finding for finding in self.findings if finding.queue in ("", queue)]
        all_well = next((finding.text for finding in findings if finding.queue), self.all_well)
        return Report(findings=findings, all_well=all_well)

    @property
    def message(self) -> str:
        """The first line, without its level and without the figures; a | would begin those."""
        problems = self._problems()
        if not problems:
            return _plain(self.all_well)
        told = [_plain(finding.text) for finding in problems[:_TOLD_FIRST]]
        more = len(problems) - len(told)
        return "; ".join([*told, *([f"and {more} more"] if more else [])])

    def lines(self, service: str, *, is_verbose: bool = False) -> str:
        """All of it, as Nagios reads it. ``is_verbose``: what is well, too."""
        first = f"{service} {self.level.name} - {self.message}"
        if self.metrics:
            first += f" | {' '.join(map(str, self.metrics))}"
        told = list(self.findings) if is_verbose else self._problems()
        if len(told) == 1 and not is_verbose:
            told = []
        return "\n".join([first, *(f"{finding.level.name}: {_plain(finding.text)}" for finding in told)])

    def _problems(self) -> list[Finding]:
        found = [finding for finding in self.findings if finding.level is not Level.OK]
        return sorted(found, key=lambda finding: _WORST_FIRST.index(finding.level))


def _plain(text: str) -> str:
    return shortened(printable(" ".join(text.split()))).replace("|", "/")

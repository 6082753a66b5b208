"""A soak's report in words: what the test prints, and what stands in ``docs/promises.md``."""

from __future__ import annotations

from collections import Counter

from tests.chaos.soak.report import Change, Growth, Report

HEADER = """\
| process | events | memory (RSS) | grows by, a minute (95 %) | by 1,000 events | descriptors | threads |
|---|---|---|---|---|---|---|
"""


def to_text(report: Report) -> str:
    """Markdown."""
    return f"{_summary(report)}\n\n{HEADER}{''.join(map(_row, report.growths()))}\n{_servers(report)}\n"


def _summary(report: Report) -> str:
    counts = Counter(restart.signal for restart in report.restarts)
    restarts = ", ".join(f"{count} by {name}" for name, count in sorted(counts.items(), reverse=True))
    whole = report.whole
    return (
        f"{report.day}, seed {report.seed}: {report.offered:,} events in {report.minutes:.1f} minutes over ten queues,"
        f" {len(report.restarts)} restarts of workers ({restarts}). Lost: {report.lost}; came twice:"
        f" {report.duplicated}. From publish to effect: half within {_ms(whole.p50)}, 95 % within {_ms(whole.p95)},"
        f" 99 % within {_ms(whole.p99)}."
    )


def _row(growth: Growth) -> str:
    slope, each = growth.slope, growth.per_thousand_events
    return (
        f"| {growth.name} | {growth.events:,} | {_mib(growth.rss.before)} → {_mib(growth.rss.after)} MiB"
        f" | {slope.middle:+.1f} KiB ({slope.low:+.1f} … {slope.high:+.1f})"
        f" | {'–' if each is None else f'{each:+.1f} KiB'} | {growth.descriptors} | {growth.threads} |\n"
    )


def _servers(report: Report) -> str:
    def change(what: str) -> Change:
        return report.change(report.servers, what)

    most = max(sample.waiting for sample in report.servers)
    return (
        f"Connections to the broker: {change('broker_connections')}, channels: {change('broker_channels')};"
        f" to PostgreSQL: {change('postgres_connections')}. Most that waited in the broker: {most:,} events."
    )


def _mib(kib: int) -> str:
    return f"{kib / 1024:.1f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"

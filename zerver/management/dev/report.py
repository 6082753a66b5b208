"""The demonstration's result, for people and for programs."""

from typing import Any

from zerver.lib.counted import counted
from zerver.management.dev.demo import DemoResult
from zerver.management.dev.lanes import Lanes
from zerver.management.output import Column, duration, figure

COLUMNS = [
    Column("queue"),
    Column("published", is_number=True),
    Column("consumed", is_number=True),
    Column("failed", is_number=True),
    Column("p50", is_number=True),
    Column("p99", is_number=True),
]


def table_rows(result: DemoResult) -> list[list[str]]:
    """A row a queue. p50 and p99 are times from publish to done."""
    return [
        [
            name,
            figure(result.published.get(name)),
            figure(tally.consumed),
            figure(tally.failed),
            duration(tally.latencies.quantile(0.5)),
            duration(tally.latencies.quantile(0.99)),
        ]
        for name, tally in result.queues.items()
    ]


def summary_lines(result: DemoResult, lanes: Lanes, database: str) -> list[str]:
    """What the table cannot say."""
    pace = result.events / result.seconds if result.seconds else 0.0
    stored = f"stored: {counted(result.rows.webhooks, 'row')} in zerver_incoming_webhook"
    if result.rows.activities is not None:
        activities = counted(result.rows.activities, "activity", "activities")
        stored += f", {activities} counted in zerver_user_activity"
    events = counted(result.events, "event")
    return [
        f"{events} in {result.seconds:.1f} s, {pace:.0f} events/s, over {lanes.carried_by}",
        *(f"{name} was away: {why}" for name, why in lanes.away.items()),
        f"{stored} ({database})",
    ]


def as_json(result: DemoResult, lanes: Lanes, database: str) -> dict[str, Any]:
    """Shape: ``{"ok", "problem", "queues": [{"queue", "published", "consumed", "failed", "p50_ms", "p99_ms"}],
    "events", "seconds", "events_per_second", "carried_by", "away": {lane: why}, "stored": {"database", "webhooks",
    "activities"}}``; null where nothing can know.
    """
    return {
        "ok": not result.problem,
        "problem": result.problem,
        "queues": [
            {
                "queue": name,
                "published": result.published.get(name),
                "consumed": tally.consumed,
                "failed": tally.failed,
                "p50_ms": _tenths(tally.latencies.quantile(0.5)),
                "p99_ms": _tenths(tally.latencies.quantile(0.99)),
            }
            for name, tally in result.queues.items()
        ],
        "events": result.events,
        "seconds": round(result.seconds, 3),
        "events_per_second": round(result.events / result.seconds, 1) if result.seconds else None,
        "carried_by": lanes.carried_by,
        "away": lanes.away,
        "stored": {
            "database": database,
            "webhooks": result.rows.webhooks,
            "activities": result.rows.activities,
        },
    }


def _tenths(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)

"""What tests of schedules share: declarations of their own, time, and a scheduler's round."""

from __future__ import annotations

import pytest

from zerver.lib import clock
from zerver.schedule import census, declarations, rounds, service
from zerver.schedule.declarations import ScheduleRegistry
from zerver.schedule.rounds import Rounds
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import Schedule

HOUR_MS = 3_600_000


def own_declarations(monkeypatch: pytest.MonkeyPatch) -> ScheduleRegistry:
    """Nothing is declared but what the test declares."""
    fresh = ScheduleRegistry()
    for module in (declarations, service, rounds, census):
        monkeypatch.setattr(module, "declared", fresh)
    return fresh


def at_full_hour() -> None:
    """A second after it, so that what the machine takes for a test changes nothing."""
    clock.offset_ms += HOUR_MS - clock.now_ms() % HOUR_MS + 1_000


def look() -> None:
    """As a scheduler that starts. Raises: what goes wrong with the first that it comes to."""
    fresh = Rounds()
    fresh.synchronize()
    fresh.look_at_due(lambda _, work: work(), lambda: False)


def due_now() -> list[Schedule]:
    """But declared ones."""
    table = ScheduleTable("default")
    return table.due(table.now_ms(), [], 100)

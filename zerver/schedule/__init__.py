"""Schedules: what happens again and again, once each time, however many processes look after it.

from zerver.schedule import cron, every, schedules

@every(minutes=5)
def refresh_rates() -> None: ...

@cron("0 7 * * 1-5", timezone="Europe/Berlin")
@task("sendReports", max_attempts=3)
def send_reports() -> None: ...

schedules.create("report of shop 7", task="sendReport", payload={"shop": 7}, cron="0 6 * * 1")
"""

from zerver.schedule.declarations import cron, every
from zerver.schedule.errors import InvalidSchedule, ScheduleError, ScheduleNotFound, ScheduleRefused
from zerver.schedule.service import schedules
from zerver.schedule.values import Ticked

__all__ = [
    "InvalidSchedule",
    "ScheduleError",
    "ScheduleNotFound",
    "ScheduleRefused",
    "Ticked",
    "cron",
    "every",
    "schedules",
]

"""Runs what must happen at its time without anybody's asking."""

import os
from typing import Any

from zerver.lib.conf import get_settings
from zerver.management.base import QueueCommand
from zerver.monitoring.log_format import show_where_nobody_does
from zerver.schedule.scheduler import Scheduler
from zerver.worker.service_manager import ServiceManager
from zerver.worker.stop_signals import StopSignals


class Command(QueueCommand):
    """Until SIGTERM or Ctrl-C."""

    help = (
        "Has schedules tick, sweeps up tasks that nobody has been told of, and deletes what finished long ago;"
        " several may run."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        manager = ServiceManager.named_by(os.environ)
        stop_signals = StopSignals()
        stop_signals.install()
        show_where_nobody_does(get_settings().log_format)
        self.warn_of_broken_modules()
        scheduler = Scheduler(get_settings(), manager)
        stop_signals.take_over(lambda _: scheduler.stop(), scheduler.stop)
        scheduler.run()

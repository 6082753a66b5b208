"""Schedules: what happens again and again."""

from django.apps import AppConfig


class ScheduleConfig(AppConfig):
    name = "zerver.schedule"
    label = "zerver_schedule"
    verbose_name = "Schedules"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Django's registry is not ready when this module is imported.
        from zerver.lib.resealing import add_store
        from zerver.schedule.sealed import STORE

        add_store(STORE)

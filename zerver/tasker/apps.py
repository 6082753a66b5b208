"""Tasks: scheduled, retried, cancelled, with a row of their own."""

from django.apps import AppConfig


class TaskerConfig(AppConfig):
    name = "zerver.tasker"
    label = "zerver_tasker"
    verbose_name = "Tasks"
    default_auto_field = "django.db.models.BigAutoField"

"""Counts who did what through which client: a queue of small events, written in bulk."""

from django.apps import AppConfig


class ActivityConfig(AppConfig):
    name = "zerver.contrib.activity"
    label = "zerver_activity"
    verbose_name = "User activity"
    default_auto_field = "django.db.models.BigAutoField"

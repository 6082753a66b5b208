"""Tasks: scheduled, retried, cancelled, with a row of their own."""

from django.apps import AppConfig


class TaskerConfig(AppConfig):
    name = "zerver.tasker"
    label = "zerver_tasker"
    verbose_name = "Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Django's registry is not ready when this module is imported.
        from zerver.lib.resealing import add_store
        from zerver.tasker.sealed import STORES

        for store in STORES:
            add_store(store)

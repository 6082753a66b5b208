"""Accepts signed webhooks over HTTP fast, and works on them later."""

from django.apps import AppConfig
from django.core.checks import register

from zerver.contrib.webhooks.conf import check_secrets


class WebhooksConfig(AppConfig):
    name = "zerver.contrib.webhooks"
    label = "zerver_webhooks"
    verbose_name = "Incoming webhooks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(check_secrets)

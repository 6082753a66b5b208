"""The composition root: hands each room what it needs from the ones above it."""

from contextlib import suppress

from django.apps import AppConfig


class ZerverConfig(AppConfig):
    """The core as a Django app."""

    name = "zerver"
    verbose_name = "Queues"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Django's registry is not ready when this module is imported, so what needs models is imported here.
        from zerver import checks
        from zerver.lib.conf import get_settings
        from zerver.lib.errors import ConfigurationError
        from zerver.lib.registry import queues
        from zerver.lib.transport import current
        from zerver.monitoring import log, sentry
        from zerver.worker.immediate import consume_now
        from zerver.worker.queue_processors import discover

        checks.register()
        log.connect()
        sentry.connect()
        discover()
        # Nonsense in the settings is told by the checks, with its mend, rather than by a traceback from here.
        with suppress(ConfigurationError):
            queues.apply_overrides(get_settings().overrides)
        current.consume_immediately_with(consume_now)

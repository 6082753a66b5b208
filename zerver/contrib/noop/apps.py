"""Two queues that do nothing, for profiling everything around a handler."""

from django.apps import AppConfig


class NoopConfig(AppConfig):
    name = "zerver.contrib.noop"
    label = "zerver_noop"
    verbose_name = "Queues for profiling"

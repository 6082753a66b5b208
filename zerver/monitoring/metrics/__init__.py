"""The queues as Prometheus reads them: what a snapshot says, and what a publishing process counts itself."""

try:
    import prometheus_client as _  # noqa: F401 (whether it is there; the modules here could not be imported without)
except ImportError as error:
    raise ImportError(
        f"the package prometheus-client cannot be imported ({error}): pip install zerver[metrics]"
    ) from error

from zerver.monitoring.metrics.publishing import connect

__all__ = ["connect"]

"""``/metrics`` over HTTP."""

from http import HTTPStatus
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.registry import Collector

from zerver.lib.listening import QuietServer

_PATH = "/metrics"


class MetricsServer(QuietServer):
    """Raises: OSError, when nobody can listen there."""

    def __init__(self, host: str, port: int, collector: Collector) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        super().__init__(host, port, _Handler.factory(registry))


class _Handler(MetricsHandler):
    #: A client that says nothing is not waited for. Units: seconds.
    timeout = 10

    def do_GET(self) -> None:  # noqa: N802 (HTTP's own)
        if urlsplit(self.path).path == _PATH:
            super().do_GET()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, f"the metrics are at {_PATH}")

"""``/metrics`` over HTTP."""

import socket
import socketserver
import sys
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.registry import Collector

_PATH = "/metrics"


class MetricsServer(socketserver.ThreadingTCPServer):
    """Not ``http.server``'s own, which asks the resolver for this host's name first.

    Raises: OSError, when nobody can listen there.
    """

    # Those that are asked while the process is told to end get no answer; nothing is lost by it.
    daemon_threads = True
    # Connections that have ended but linger are in nobody's way.
    allow_reuse_address = True
    # Else two of us would share a port, and neither know.
    allow_reuse_port = False

    def __init__(self, host: str, port: int, collector: Collector) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        registry = CollectorRegistry()
        registry.register(collector)
        super().__init__((host, port), _Handler.factory(registry))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who goes away before the answer is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(MetricsHandler):
    #: A client that says nothing is not waited for. Units: seconds.
    timeout = 10

    def do_GET(self) -> None:  # noqa: N802 (HTTP's own)
        if urlsplit(self.path).path == _PATH:
            super().do_GET()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, f"the metrics are at {_PATH}")

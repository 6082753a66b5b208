"""What listens for HTTP in a process that has other things to do."""

import socket
import socketserver
import sys
from collections.abc import Callable
from typing import Any


class QuietServer(socketserver.ThreadingTCPServer):
    """Not ``http.server``'s own, which asks the resolver for this host's name first.

    Raises: OSError, when nobody can listen there.
    """

    # Whoever is being answered holds up no end.
    daemon_threads = True
    # Connections that have ended but linger are in nobody's way.
    allow_reuse_address = True
    # Else two processes would share a port, and who asks would get now the one and now the other.
    allow_reuse_port = False

    def __init__(self, host: str, port: int, handler: Callable[..., Any]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who goes away before the answer is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

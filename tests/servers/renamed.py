"""A broker under another version, for what is done by its word alone."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.servers import spawn
from tests.servers.ports import HOST


class Renamed(spawn.Server):
    """Hands a broker's bytes on, with another version of the same length in its greeting."""

    def __init__(self, port: int, version: str, told: str) -> None:
        self._upstream_port = port
        self._version = version.encode()
        self._told = told.encode()[: len(version)]
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Closed alone, it would go on waiting for the next client.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def through(self, url: str) -> str:
        return url.replace(f":{self._upstream_port}/", f":{self.port}/")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((HOST, self._upstream_port))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with source, target:
            try:
                while data := source.recv(65_536):
                    target.sendall(data.replace(self._version, self._told))
            except OSError:
                return

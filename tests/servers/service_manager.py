"""systemd's end of ``NOTIFY_SOCKET``: who listens to what a process says of itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.processes import ProjectProcess
from tests.wait import wait_for


@dataclass(slots=True)
class ServiceManager:
    """All that it has heard at ``address``."""

    address: str
    _receiver: socket.socket
    heard: list[str] = field(default_factory=list)

    def has_heard(self, assignment: str) -> bool:
        while True:
            try:
                self.heard += self._receiver.recv(4096).decode().splitlines()
            except BlockingIOError:
                return assignment in self.heard

    def wait_for(self, assignment: str, process: ProjectProcess) -> None:
        wait_for(
            lambda: self.has_heard(assignment), 30, lambda: f"{assignment}: {self.heard}; {process.output}"
        )


@contextmanager
def listening(directory: Path) -> Iterator[ServiceManager]:
    address = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.setblocking(False)
        yield ServiceManager(address, receiver)

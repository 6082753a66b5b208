"""systemd, told how this process stands. Source: sd_notify(3), sd_watchdog_enabled(3)."""

import os
import socket
from collections.abc import MutableMapping
from typing import Self


class ServiceManager:
    """Whoever listens at ``NOTIFY_SOCKET``; without one, nobody, and nothing is sent."""

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        """``address``: a path, or ``@name`` in Linux's abstract namespace."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        #: It ends a process that it has not heard of for so long; None: it does not.
        self.watchdog_seconds = watchdog_seconds

    @classmethod
    def named_by(cls, environment: MutableMapping[str, str]) -> Self:
        """The variables are taken out: what a handler starts is another service's, or nobody's, and must not speak for
        this process.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_watched = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1_000_000 if is_watched else None)

    def tell(self, *assignments: str) -> bool:
        """Like ``READY=1``. Returns whether nothing remains to be said; raises nothing: who cannot be told is not worth
        a worker.
        """
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                # One that does not read what it is sent holds nobody up.
                sender.setblocking(False)
                sender.connect(self._address)
                sender.send("\n".join(assignments).encode())
        except OSError:
            return False
        return True

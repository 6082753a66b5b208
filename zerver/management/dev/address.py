"""Where the web server listens."""

import re
import socket
from dataclasses import dataclass

from zerver.management.dev.errors import DevError

_FORM = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):)?(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT``. Raises: ValueError, with what would be right."""
        match = _FORM.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ValueError(f"{text!r} is no address: write HOST:PORT, like 127.0.0.1:8000")
        return cls(host=(match["host"] or "127.0.0.1").strip("[]"), port=int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def require_free(address: Address) -> None:
    """Raises: DevError when nobody could listen there just now."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # As the server itself does: connections that have ended but linger are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
    except OSError as error:
        why = error.strerror or str(error)
        raise DevError(
            f"{address} cannot be listened on ({why}); choose another with --web HOST:PORT"
        ) from error


def free_local_address() -> Address:
    """An address on this machine alone, with a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(host="127.0.0.1", port=probe.getsockname()[1])

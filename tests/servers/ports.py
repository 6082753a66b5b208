"""Ports that nobody else takes: not another test session, not a client's outgoing connection."""

from __future__ import annotations

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
LOWEST_PORT = 15_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

#: One bound socket per port taken; they vanish with this process, and the reservation with them.
_reservations: dict[int, socket.socket] = {}


def free_port() -> int:
    """Reserve a TCP port for the life of this process, or until ``release_port``.

    It lies below the ephemeral range: a server that is killed and restarted must find its port free, and a client
    that knocks on a dead ephemeral port may be given that very port as its own, and end up talking to itself.
    """
    candidates = range(LOWEST_PORT, _ephemeral_start())
    for port in random.sample(candidates, len(candidates)):
        if port not in _reservations and _reserve(port):
            return port
    raise RuntimeError(f"No free port between {candidates.start} and {candidates.stop}")


def release_port(port: int) -> None:
    reservation = _reservations.pop(port, None)
    if reservation is not None:
        reservation.close()


def is_listening(port: int, timeout_seconds: float = 1.0) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=timeout_seconds):
            return True
    except OSError:
        return False


def _ephemeral_start() -> int:
    try:
        return int(EPHEMERAL_RANGE.read_text().split()[0])
    except OSError:
        return 32_768


def _reserve(port: int) -> bool:
    # A name in Linux's abstract namespace is held by one process at a time, across users, and leaves no file behind.
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0zerver-tests-port-{port}")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError:
        reservation.close()
        return False
    _reservations[port] = reservation
    return True

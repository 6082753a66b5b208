"""Hosts with addresses of their own: network namespaces, which end with their processes and leave nothing behind."""

from __future__ import annotations

import ctypes
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers import spawn
from tests.wait import wait_for

#: RFC 2544 keeps these addresses for the measuring of networks.
LAN = "198.18.0"
#: Of this process, and of the broker and the database that it starts.
SERVERS = f"{LAN}.1"
PREFIX_BITS = 24
#: Of <sched.h>.
CLONE_NEWNET = 0x40000000


class CannotScaleError(Exception):
    """This machine does not let us make hosts of it; the message says what is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    address: str
    #: Goes before a command that is to run there.
    prefix: tuple[str, ...]


class Network:
    """A context; from then on this process and its children are on a network of their own, which nothing leaves."""

    def __init__(self, directory: Path) -> None:
        self._log_path = directory / "network.log"
        self._holders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Network:
        if os.geteuid() != 0:
            raise CannotScaleError(
                "hosts of their own are network namespaces, which only root may make: run it as root"
            )
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            reason = os.strerror(ctypes.get_errno())
            raise CannotScaleError(
                f"no network namespace can be made here ({reason}): run it where root is not confined"
            )
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "lan", "type", "bridge")
        _ip("addr", "add", f"{SERVERS}/{PREFIX_BITS}", "dev", "lan")
        _ip("link", "set", "lan", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders:
            spawn.end(holder)

    def add_host(self) -> Host:
        number = len(self._holders) + 1
        # As long as this process is there, so is the namespace.
        holder = spawn.spawn(
            ("unshare", "--net", "sleep", "infinity"), env=dict(os.environ), log_path=self._log_path
        )
        self._holders.append(holder)
        ours = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != ours, 10, "a network namespace")
        host = Host(
            address=f"{LAN}.{10 + number}",
            prefix=("nsenter", f"--net=/proc/{holder.pid}/ns/net"),
        )
        _ip("link", "add", f"host{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        _ip("link", "set", f"host{number}", "master", "lan", "up")
        for arguments in (
            ("addr", "add", f"{host.address}/{PREFIX_BITS}", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip(*arguments, prefix=host.prefix)
        return host


def _ip(*arguments: str, prefix: tuple[str, ...] = ()) -> None:
    """Raises: CannotScaleError with what it said."""
    try:
        done = subprocess.run([*prefix, "ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotScaleError(f"{error.filename} is not installed (apt-get install iproute2)") from error
    if done.returncode:
        raise CannotScaleError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

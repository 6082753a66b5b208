"""What systemd is told, over the socket that it holds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zerver.worker.service_manager import ServiceManager


@contextmanager
def _listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        receiver.settimeout(10)
        yield receiver


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_it_is_told_in_one_datagram(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "s") if kind == "path" else f"@zerver-tests-{os.getpid()}"
    with _listening(address) as systemd:
        assert ServiceManager.named_by({"NOTIFY_SOCKET": address}).tell("READY=1", "STATUS=running: noop")
        assert systemd.recv(1024) == b"READY=1\nSTATUS=running: noop"


def test_its_variables_are_taken_from_what_a_handler_would_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert ServiceManager.named_by(os.environ).watchdog_seconds == 30
    code = "import os; print([name for name in os.environ if name.startswith(('NOTIFY_', 'WATCHDOG_'))])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_a_watchdog_that_is_not_ours_is_none(environment: dict[str, str]) -> None:
    assert ServiceManager.named_by(environment).watchdog_seconds is None
    assert environment == {}


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody", "relative", f"/{'x' * 300}", "vsock:2:1"])
def test_a_socket_where_nobody_listens_harms_nobody(address: str) -> None:
    assert not ServiceManager(address).tell("READY=1")


def test_without_a_socket_there_is_nobody_to_tell() -> None:
    assert ServiceManager.named_by({}).tell("READY=1")


def test_one_that_reads_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with _listening(str(tmp_path / "s")):
        manager = ServiceManager(str(tmp_path / "s"))
        assert not all(manager.tell("WATCHDOG=1") for _ in range(1000))  # more than the socket's buffer takes

"""``queue_metrics`` as a clumsy user types it. What is told, and how it ends: ``tests/ops/test_metrics.py``."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.integration.commands import run
from tests.servers.ports import free_port

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of the arguments --listen --textfile is required"),
        (["--listen", "nonsense"], "'nonsense' is no address: write HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "is no address: write HOST:PORT"),
        (["--listen", "127.0.0.1:0"], "is no address: write HOST:PORT"),
        (["--listen", ""], "is no address: write HOST:PORT"),
        (["--listen", "127.0.0.1:9410", "--textfile", "a.prom"], "not allowed with argument"),
        (["--textfile", "a.txt"], "'a.txt': node-exporter reads files whose names end in .prom"),
        (["--textfile", ""], "node-exporter reads files whose names end in .prom"),
    ],
)
def test_what_is_typed_wrongly_is_told_with_what_would_be_right(arguments: list[str], said: str) -> None:
    assert said in run("queue_metrics", *arguments).err


def test_a_port_that_is_taken_is_told_with_the_mend() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("queue_metrics", "--listen", f"127.0.0.1:{port}")
    assert ran.code == 1
    assert ran.err == (
        f"127.0.0.1:{port} cannot be listened on (Address already in use); choose another with --listen HOST:PORT\n"
    )


@pytest.mark.parametrize("host", ["nobody.invalid", "192.0.2.1", "[2001:db8::1]"])
def test_an_address_that_is_not_of_this_machine_is_told(host: str) -> None:
    ran = run("queue_metrics", "--listen", f"{host}:{free_port()}")
    assert ran.code == 1
    assert ran.err.startswith(f"{host}:")
    assert "cannot be listened on (" in ran.err


def test_a_setting_that_is_nonsense_is_told_at_the_start(settings: Settings) -> None:
    settings.QUEUE_URL = "rabbit://user:hidden@host/"
    ran = run("queue_metrics", "--listen", "9410")
    assert ran.code == 1
    assert "QUEUE_URL" in ran.err
    assert "hidden" not in ran.err


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nonesuch/a.prom", "No such file or directory"),
        ("file/a.prom", "Not a directory"),
        ("directory.prom", "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_and_nothing_is_left(
    tmp_path: Path, path: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory.prom").mkdir()
    ran = run("queue_metrics", "--textfile", str(tmp_path / path))
    assert ran.code == 1
    assert ran.err == f"{tmp_path / path} cannot be written: {problem}; what was there stays\n"
    assert sorted(left.name for left in tmp_path.iterdir()) == ["directory.prom", "file"]

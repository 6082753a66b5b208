"""scripts/audit, against an index of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.servers.processes import REPOSITORY

#: What the index says of a path; None: it knows nothing of it.
Answer = Callable[[str], str | None]


@pytest.fixture
def index() -> Iterator[Callable[[Answer], str]]:
    """``index(answer)`` is the address of one that answers so."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = answer(self.path)
                self.send_response(404 if text is None else 200)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *_: object) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "AUDIT_URL": url, "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-I", str(REPOSITORY / "scripts" / "audit")]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_every_locked_package_is_asked_for_by_its_version(index: Callable[[Answer], str]) -> None:
    asked: list[str] = []

    def nothing(path: str) -> str:
        asked.append(path)
        return '{"vulnerabilities": []}'

    ran = audit(index(nothing))
    assert (ran.returncode, ran.stdout) == (0, "")
    lock = (REPOSITORY / "requirements" / "dev.txt").read_text().splitlines()
    pinned = [line.split()[0] for line in lock if "==" in line and not line.startswith((" ", "#"))]
    assert sorted(asked) == sorted(f"/pypi/{pin.replace('==', '/')}/json" for pin in pinned)
    assert f"{len(pinned)} packages, 0 known vulnerabilities" in ran.stderr


def test_a_vulnerable_package_is_named_with_the_release_that_mends_it(
    index: Callable[[Answer], str],
) -> None:
    def of_pika(path: str) -> str:
        bad = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fixed_in": ["9.9"], "link": "https://osv.dev/PYSEC-1"}
        withdrawn = {"id": "PYSEC-2", "withdrawn": "2026-01-01T00:00:00Z"}
        return json.dumps({"vulnerabilities": [bad, withdrawn] if path.startswith("/pypi/pika/") else []})

    ran = audit(index(of_pika))
    assert ran.returncode == 1
    assert ran.stdout.startswith("pika ")
    assert ran.stdout.endswith(": PYSEC-1, CVE-1; mended in 9.9; https://osv.dev/PYSEC-1\n")


@pytest.mark.parametrize("answer", [None, "no json", "[]", "{}"], ids=repr)
def test_an_index_that_does_not_tell_is_no_clean_audit(
    index: Callable[[Answer], str], answer: str | None
) -> None:
    ran = audit(index(lambda _: answer))
    assert ran.returncode == 75
    assert ran.stderr.startswith("NOT AUDITED: http://127.0.0.1:")


def test_an_index_that_is_not_there_is_no_clean_audit() -> None:
    ran = audit("http://127.0.0.1:1")
    assert (ran.returncode, ran.stdout) == (75, "")
    assert "Connection refused" in ran.stderr

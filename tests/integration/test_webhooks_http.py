"""The webhook view behind a real server: what arrives over a socket, not what a test client makes of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest
from pytest_django import DjangoDbBlocker

from tests.servers.databases import use_database
from tests.servers.ports import HOST, free_port, is_listening
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.contrib.webhooks import signature
from zerver.models import WaitingEvent

SECRET = "a secret of the tests"
BODY = json.dumps({"zen": "Half measures are as bad as nothing at all."}).encode()


@pytest.fixture
def port(project_process: Callable[..., ProjectProcess], sqlite_database: str) -> Iterator[int]:
    """Where a web server listens that knows the secret of ``github``."""
    number = free_port()
    env = {"DATABASE_URL": sqlite_database, "WEBHOOK_SECRET_GITHUB": SECRET}
    server = project_process("runserver", "--noreload", f"{HOST}:{number}", env=env)
    wait_for(lambda: is_listening(number), 60, "the web server")
    yield number
    assert "Traceback" not in server.output
    assert SECRET not in server.output


def send(
    port: int, *headers: str, body: bytes = b"", signed: bytes | None = None
) -> tuple[int, dict[str, str]]:
    """One request with these headers beside the usual ones. Shape: status and the JSON of the answer."""
    lines = [
        "POST /webhooks/github/ HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Connection: close",
        "Content-Type: application/json",
        "X-GitHub-Event: ping",
        f"X-Hub-Signature-256: {signature.sign(SECRET, body if signed is None else signed)}",
        *headers,
    ]
    with socket.create_connection((HOST, port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)


def waiting(database_url: str, blocker: DjangoDbBlocker) -> int:
    with blocker.unblock(), use_database(database_url):
        return WaitingEvent.objects.count()


def test_a_signed_webhook_is_accepted(
    port: int, sqlite_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    status, answer = send(port, f"Content-Length: {len(BODY)}", body=BODY)
    assert status == 202
    assert answer["message_id"]
    assert waiting(sqlite_database, django_db_blocker) == 1


def test_what_cannot_be_read_is_refused_and_nothing_is_published(
    port: int, sqlite_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    chunked = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    assert send(port, "Transfer-Encoding: chunked", body=chunked, signed=BODY)[0] == 411
    # Cut off on the way, or longer than it says.
    assert send(port, f"Content-Length: {len(BODY)}", body=BODY[:-1], signed=BODY)[0] == 403
    assert send(port, f"Content-Length: {len(BODY) - 1}", body=BODY)[0] == 403
    # Nothing follows, but nothing needs to: the claim alone is too much.
    assert send(port, "Content-Length: 50000000")[0] == 413
    over = b"x" * (1 << 20)
    assert send(port, f"Content-Length: {len(over)}", body=over)[0] == 413
    assert waiting(sqlite_database, django_db_blocker) == 0

"""The management API: who logs in there and with what; servers that answer as none should."""

from __future__ import annotations

import http.server
import socketserver
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from django.views.debug import ExceptionReporter

from tests.servers.rabbitmq import RabbitServer
from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.address import BrokerAddress, parse_address
from zerver.lib.transport.rabbitmq.management_api import ManagementApi

Serve = Callable[[type[socketserver.BaseRequestHandler]], int]

BROKER = BrokerAddress(hosts=(("127.0.0.1", 5672),))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Runs a server with this handler; its port."""
    with ExitStack() as stack:
        yield lambda handler: stack.enter_context(_serving(handler))


@contextmanager
def _serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class SpeaksSsh(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"SSH-2.0-OpenSSH_9\r\n")


class HangsUp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(4096)


class SpeaksHtml(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.mark.parametrize("handler", [SpeaksSsh, HangsUp, SpeaksHtml])
def test_whatever_answers_there_is_told_as_unavailable(
    serve: Serve, handler: type[socketserver.BaseRequestHandler]
) -> None:
    api = ManagementApi(f"http://user:secret@127.0.0.1:{serve(handler)}", BROKER)
    with pytest.raises(TransportUnavailable, match="management API") as caught:
        api.queues()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://user:pass/word@127.0.0.1:15672", "http://[", "nonsense", "ftp://x"])
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(TransportUnavailable) as caught:
        ManagementApi(url, BROKER).queues()
    assert "pass" not in str(caught.value).replace("user:password@host", "")


def test_the_login_goes_nowhere_but_to_the_host_that_was_named(serve: Serve) -> None:
    asked: list[str | None] = []

    class Elsewhere(SpeaksHtml):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            super().do_GET()

    elsewhere = serve(Elsewhere)

    class Redirects(SpeaksHtml):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{elsewhere}/")
            self.end_headers()

    with pytest.raises(TransportUnavailable, match="302"):
        ManagementApi(f"http://user:secret@127.0.0.1:{serve(Redirects)}", BROKER).queues()
    assert asked == []


@pytest.mark.parametrize(
    ("login", "queue_login", "in_file", "sent"),
    [
        ("shop:own%40@", "shop:theirs@", "filed", "shop:own@"),
        ("shop:@", "shop:theirs@", "filed", "shop:"),
        ("shop@", "shop@", "filed", "shop:filed"),
        ("watch@", "shop@", "filed", "watch:filed"),
        ("", "sh%40p@", "filed", "sh@p:filed"),
        ("shop@", "shop:theirs@", None, "shop:theirs"),
        ("", "shop:theirs@", None, "shop:theirs"),
        ("watch@", "shop:theirs@", None, "watch:"),
        ("", "", None, "guest:guest"),
    ],
)
def test_what_the_url_lacks_of_a_login_is_that_of_the_broker(
    serve: Serve, tmp_path: Path, login: str, queue_login: str, in_file: str | None, sent: str
) -> None:
    logins: list[str] = []

    class NotesLogins(SpeaksHtml):
        def do_GET(self) -> None:
            logins.append(b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode())
            super().do_GET()

    path = tmp_path / "password"
    if in_file is not None:
        path.write_text(f"{in_file}\n")
    address = parse_address(f"amqp://{queue_login}127.0.0.1/", path if in_file is not None else None)
    with pytest.raises(TransportUnavailable):
        ManagementApi(f"http://{login}127.0.0.1:{serve(NotesLogins)}", address).queues()
    assert logins == [sent]


def test_a_password_file_is_read_anew_and_a_user_without_the_tag_is_told(
    rabbit_server: RabbitServer, rabbit_vhost: str, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    host, vhost = rabbit_server.management_url.rpartition("@")[2], rabbit_vhost.rpartition("/")[2]
    api = ManagementApi(f"http://shop@{host}", parse_address(f"amqp://shop@127.0.0.1/{vhost}", path))
    with pytest.raises(TransportUnavailable, match=r"cannot be read.*; mend QUEUE_PASSWORD_FILE"):
        api.queues()
    try:
        for password in ("first", "second"):
            rabbit_server.api("PUT", "/users/shop", {"password": password, "tags": "monitoring"})
            everything = dict.fromkeys(("configure", "write", "read"), ".*")
            rabbit_server.api("PUT", f"/permissions/{vhost}/shop", everything)
            path.write_text(password)
            assert (api.queues(), api.alarms(), api.consumer_timeouts()) == ([], [], {})
        rabbit_server.api("PUT", "/users/shop", {"password": "second", "tags": ""})
        with pytest.raises(TransportUnavailable, match=r"refuses the login \(401\).* tag monitoring"):
            api.queues()
    finally:
        rabbit_server.api("DELETE", "/users/shop")


#: Not as it is written here: a report shows lines of source too.
HIDDEN = "".join(reversed("terces-a-si"))


def test_a_crash_report_shows_no_login(serve: Serve) -> None:
    api = ManagementApi(f"http://user:{HIDDEN}@127.0.0.1:{serve(SpeaksSsh)}", BROKER)
    try:
        api.queues()
    except TransportUnavailable as error:
        report = ExceptionReporter(None, type(error), error, error.__traceback__).get_traceback_html()
    assert "management_api.py" in report
    assert HIDDEN not in report
    assert b64encode(f"user:{HIDDEN}".encode()).decode() not in report

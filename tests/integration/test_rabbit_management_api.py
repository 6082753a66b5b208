"""The management API, by servers that answer as none should."""

from __future__ import annotations

import http.server
import socketserver
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from django.views.debug import ExceptionReporter

from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.management_api import ManagementApi

Serve = Callable[[type[socketserver.BaseRequestHandler]], int]


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
    api = ManagementApi(f"http://user:secret@127.0.0.1:{serve(handler)}", "/")
    with pytest.raises(TransportUnavailable, match="management API") as caught:
        api.queues()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://user:pass/word@127.0.0.1:15672", "http://[", "nonsense", "ftp://x"])
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(TransportUnavailable) as caught:
        ManagementApi(url, "/").queues()
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
        ManagementApi(f"http://user:secret@127.0.0.1:{serve(Redirects)}", "/").queues()
    assert asked == []


#: Not as it is written here: a report shows lines of source too.
HIDDEN = "".join(reversed("terces-a-si"))


def test_a_crash_report_shows_no_login(serve: Serve) -> None:
    api = ManagementApi(f"http://user:{HIDDEN}@127.0.0.1:{serve(SpeaksSsh)}", "/")
    try:
        api.queues()
    except TransportUnavailable as error:
        report = ExceptionReporter(None, type(error), error, error.__traceback__).get_traceback_html()
    assert "management_api.py" in report
    assert HIDDEN not in report
    assert b64encode(f"user:{HIDDEN}".encode()).decode() not in report

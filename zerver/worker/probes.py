"""Answers for probes by HTTP: ``/live`` and ``/ready``, 200 or 503, each with a JSON body."""

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from zerver.lib.listening import QuietServer

#: What is asked, and what comes of it: is it so, and all that there is to know.
Question = Callable[[], tuple[bool, dict[str, Any]]]

#: How soon the server notices that it is to end.
_POLL_SECONDS = 0.1


class ProbeServer(QuietServer):
    """Listens from the beginning, and answers from ``start`` on. Raises: OSError, when nobody can listen there."""

    def __init__(self, host: str, port: int, questions: dict[str, Question]) -> None:
        """``questions`` by their path."""
        self.questions = questions
        super().__init__(host, port, _Handler)

    def start(self) -> None:
        arguments = {"poll_interval": _POLL_SECONDS}
        threading.Thread(
            target=self.serve_forever, kwargs=arguments, name="zerver-probes", daemon=True
        ).start()

    def stop(self) -> None:
        """Once it has been started."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ProbeServer
    #: A client that says nothing is not waited for. Units: seconds.
    timeout = 5
    #: Not which Python it is.
    server_version = "zerver"
    sys_version = ""

    def do_GET(self) -> None:
        question = self.server.questions.get(urlsplit(self.path).path)
        if question is None:
            known = " and ".join(self.server.questions)
            self._answer(HTTPStatus.NOT_FOUND, {"problem": f"there is nothing here; there are {known}"})
            return
        is_so, body = question()
        self._answer(HTTPStatus.OK if is_so else HTTPStatus.SERVICE_UNAVAILABLE, body)

    do_HEAD = do_GET  # noqa: N815 (HTTP's own)

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        content = f"{json.dumps(body)}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each probe would be all that the log says."""

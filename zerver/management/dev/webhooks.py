"""Sends webhooks as GitHub would: signed, over HTTP, a few connections at once, again where it may help."""

import json
import secrets
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from django.urls import NoReverseMatch, reverse

from zerver.contrib.webhooks import signature
from zerver.lib.errors import NotJson
from zerver.lib.event import decode_json
from zerver.management.dev.address import Address
from zerver.management.dev.errors import DevError

_CONNECTIONS = 4
_TRIES = 5
_TIMEOUT_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One line of a file of webhooks."""

    source: str
    event: str
    #: The payload as it will be posted.
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one webhook."""

    #: HTTP status; 0 when there was no answer.
    status: int
    #: Why it was not accepted; empty when it was.
    problem: str = ""

    @property
    def is_accepted(self) -> bool:
        return self.status == HTTPStatus.ACCEPTED


def read_webhooks(path: Path) -> list[Webhook]:
    """Shape of a line: ``{"source": …, "event": …, "payload": {…}}``. Raises: DevError naming the line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DevError(
            f"{path} cannot be read: {error.strerror}; name a file of webhooks after --demo"
        ) from error
    webhooks = [_read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not webhooks:
        raise DevError(f"{path} holds no webhooks; name a file that does after --demo")
    return webhooks


def _read_line(path: Path, number: int, line: bytes) -> Webhook:
    try:
        source, event, body = _parts(decode_json(line))
    except (NotJson, ValueError) as error:
        raise DevError(
            f'{path}, line {number}: not like {{"source": …, "event": …, "payload": {{…}}}}: {error}'
        ) from error
    try:
        reverse("zerver_webhooks:receive", args=[source])
    except NoReverseMatch as error:
        raise DevError(
            f"{path}, line {number}: there is no address for source {source!r}; "
            "mount zerver.contrib.webhooks.urls, and name sources by letters, digits, - and _"
        ) from error
    return Webhook(source=source, event=event, body=body)


def _parts(fields: Any) -> tuple[str, str, bytes]:
    """Source, event and payload, the last as it will be posted; what it must be is the web server's business.

    Raises: ValueError saying what is amiss.
    """
    if not isinstance(fields, dict):
        raise ValueError("it is no object")
    for name in ("source", "event", "payload"):
        if name not in fields:
            raise ValueError(f'"{name}" is missing')
        if name != "payload" and not isinstance(fields[name], str):
            raise ValueError(f'"{name}" must be text')
    body = json.dumps(fields["payload"], ensure_ascii=False, separators=(",", ":")).encode()
    return fields["source"], fields["event"], body


class Sender:
    """Posts webhooks, with secrets and delivery ids made for this run."""

    def __init__(self, webhooks: Sequence[Webhook]) -> None:
        self._webhooks = webhooks
        self._secrets = {webhook.source: secrets.token_hex(32) for webhook in webhooks}
        #: What all delivery ids of this run begin with; they have the form of UUIDs, as GitHub's do.
        self.delivery_prefix = str(uuid.uuid4())[:24]

    @property
    def environment(self) -> dict[str, str]:
        """What the web server needs so that it knows this run's secrets."""
        return {f"WEBHOOK_SECRET_{source.upper()}": secret for source, secret in self._secrets.items()}

    @property
    def count(self) -> int:
        return len(self._webhooks)

    def post_all(
        self, address: Address, on_answer: Callable[[], None], stopping: threading.Event
    ) -> list[Answer]:
        """In the order of the webhooks. What ``stopping`` came before has status 0."""
        pool = _Connections(address)

        def post(number: int) -> Answer:
            with pool.borrowed() as connection:
                answer = self._post(connection, number, stopping)
            on_answer()
            return answer

        with closing(pool), ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="sender") as threads:
            return list(threads.map(post, range(self.count)))

    def _post(self, connection: HTTPConnection, number: int, stopping: threading.Event) -> Answer:
        """Again after a broken connection or a 503: the delivery id is the same, so it is stored once."""
        answer = Answer(status=0, problem="stopped before it was posted")
        pause_seconds = 0.0
        for attempt in range(1, _TRIES + 1):
            if stopping.wait(pause_seconds):
                break
            try:
                answer, pause_seconds = self._post_once(connection, number)
            except (OSError, HTTPException) as error:
                connection.close()  # it opens anew by itself
                answer, pause_seconds = (
                    Answer(status=0, problem=f"{type(error).__name__}: {error}"),
                    0.2 * attempt,
                )
            if answer.status not in (0, 503):
                break
        return answer

    def _post_once(self, connection: HTTPConnection, number: int) -> tuple[Answer, float]:
        """The answer, and how many seconds to wait before trying again."""
        webhook = self._webhooks[number]
        connection.request(
            "POST",
            reverse("zerver_webhooks:receive", args=[webhook.source]),
            webhook.body,
            {
                "Content-Type": "application/json",
                "X-GitHub-Event": webhook.event,
                "X-GitHub-Delivery": f"{self.delivery_prefix}{number:012x}",
                signature.HEADER: signature.sign(self._secrets[webhook.source], webhook.body),
            },
        )
        _acknowledge_at_once(connection)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        pause = response.headers.get("Retry-After", "1")
        pause_seconds = min(float(pause), _LONGEST_PAUSE_SECONDS) if pause.isdecimal() else 1.0
        problem = "" if response.status == HTTPStatus.ACCEPTED else f"{response.status} {text.strip()[:200]}"
        return Answer(status=response.status, problem=problem), pause_seconds


def _acknowledge_at_once(connection: HTTPConnection) -> None:
    """Django's development server sends an answer in two parts, the second once the first has been acknowledged, for
    which Linux takes 40 ms if it is not told to hurry; it forgets, so it is told each time.
    """
    if connection.sock is not None and hasattr(socket, "TCP_QUICKACK"):
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class _Connections:
    """Kept open between requests, one for each thread."""

    def __init__(self, address: Address) -> None:
        self._all = [
            HTTPConnection(address.host, address.port, timeout=_TIMEOUT_SECONDS) for _ in range(_CONNECTIONS)
        ]
        self._free: SimpleQueue[HTTPConnection] = SimpleQueue()
        for connection in self._all:
            self._free.put(connection)

    @contextmanager
    def borrowed(self) -> Iterator[HTTPConnection]:
        connection = self._free.get()
        try:
            yield connection
        finally:
            self._free.put(connection)

    def close(self) -> None:
        for connection in self._all:
            connection.close()

"""Knocks as signed HTTP requests to a route of the application, for workers that run only while they are asked to.

What a request says is made and read by Django's signing: who has the secret has said it, and when. What is due later,
or what could not be said, the sweeper brings up when it is time.
"""

import heapq
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, ClassVar, Final
from urllib.parse import SplitResult, urlsplit

from django.core import signing
from django.db import transaction

from zerver.lib import clock
from zerver.lib.conf import LEAST_SECRET_LENGTH, get_settings
from zerver.lib.errors import InvalidSetting
from zerver.tasker import signals
from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.values import Knock

#: What a knock is worth no more after that. Units: seconds.
MAX_AGE_SECONDS: Final = 300
_SALT: Final = "zerver.tasker.http"
#: Requests on their way at once, from one process.
_REQUESTS: Final = 4
#: Of more than this, those that come after are left to the sweeper.
_WAITING: Final = 1_000
#: Of what nobody seems to know, so many are said at each sweep.
_WOKEN: Final = 100


class HttpBackend(TaskBackend):
    """``OPTIONS``: ``URL`` of the route, ``SECRET`` (or a list: the first signs, all are accepted), and
    ``TIMEOUT_SECONDS`` (5): so long it is waited for an answer; who took it goes on however long the task takes.
    """

    options: ClassVar[frozenset[str]] = frozenset({"URL", "SECRET", "TIMEOUT_SECONDS"})
    #: Over a sweep's time, so that none falls between two.
    promotes_within_seconds: ClassVar[float] = 20.0

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self._secrets: list[str | bytes] = _secrets(alias, options.get("SECRET"))
        self._url = _url(alias, options.get("URL"))
        self._timeout_seconds = _timeout(alias, options.get("TIMEOUT_SECONDS", 5))
        self._sender = _Sender(self._send)

    def knock(self, knocks: Sequence[Knock]) -> None:
        now_ms = clock.now_ms()
        soon: list[tuple[float, str]] = []
        for knock in knocks:
            seconds_left = knock.seconds_left(now_ms)
            if seconds_left <= self.promotes_within_seconds:
                soon.append((max(0.0, seconds_left), knock.queue))
        # On threads: whoever has committed need not wait for another host.
        transaction.on_commit(partial(self._sender.send, soon), using=get_settings().database, robust=True)

    def wake(self, queue: str, count: int) -> None:
        self._sender.send([(0.0, queue)] * min(count, _WOKEN))

    def _send(self, queue: str) -> None:
        """Whatever goes wrong: the task is in the table."""
        try:
            problem = self._problem_with(self.sign(queue))
        except (OSError, HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            signals.knock_failed.send_robust(sender=None, queue=queue, backend=self.alias, problem=problem)

    def _problem_with(self, body: str) -> str:
        """Of what the other side answers, as far as there is one; none in time is no problem: it is at work."""
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        with closing(
            kind(self._url.hostname or "", self._url.port, timeout=self._timeout_seconds)
        ) as connection:
            connection.request("POST", self._path, body, {"Content-Type": "text/plain"})
            try:
                answer = connection.getresponse()
            except TimeoutError:
                return ""
            said = answer.read(1000).decode(errors="replace")
            return "" if answer.status == 200 else f"the route answers {answer.status}: {said}"

    @property
    def _path(self) -> str:
        query = f"?{self._url.query}" if self._url.query else ""
        return f"{self._url.path or '/'}{query}"

    # -- what a request says

    def sign(self, queue: str) -> str:
        """The body of a request: for one task of a queue, and once."""
        said = {"queue": queue, "id": clock.new_message_id()}
        return signing.dumps(said, key=self._secrets[0], salt=_SALT)

    def read(self, body: str) -> tuple[str, str]:
        """Which queue a request is about, and which it is. Raises: BadSignature, SignatureExpired."""
        said = signing.loads(
            body, key=self._secrets[0], salt=_SALT, max_age=MAX_AGE_SECONDS, fallback_keys=self._secrets[1:]
        )
        return said["queue"], said["id"]


class _Sender:
    """Threads that send what is to be said, when it is time. They end with the process, whatever waits: the sweeper
    makes it good.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        #: When, a number that tells equals apart, and of which queue. Units: monotonic seconds.
        self._waiting: list[tuple[float, int, str]] = []
        self._count = 0
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def send(self, soon: Sequence[tuple[float, str]]) -> None:
        """Each after so many seconds. What there is no room for is left to the sweeper."""
        with self._changed:
            for after_seconds, queue in soon[: max(0, _WAITING - len(self._waiting))]:
                self._count += 1
                heapq.heappush(self._waiting, (clock.monotonic() + after_seconds, self._count, queue))
            while self._waiting and len(self._threads) < _REQUESTS:
                thread = threading.Thread(target=self._run, name="zerver-task-http", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives none just now: those that there are do it
                    break
                self._threads.append(thread)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            self._send(self._next())

    def _next(self) -> str:
        with self._changed:
            while True:
                wait_seconds = self._waiting[0][0] - clock.monotonic() if self._waiting else None
                if wait_seconds is not None and wait_seconds <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(wait_seconds)


def _secrets(alias: str, given: Any) -> list[str | bytes]:
    secrets = [given] if isinstance(given, str) else given
    if (
        not isinstance(secrets, list | tuple)
        or not secrets
        or not all(isinstance(each, str) and len(each) >= LEAST_SECRET_LENGTH for each in secrets)
    ):
        raise InvalidSetting(
            f"QUEUE_TASKS[{alias!r}]",
            "OPTIONS has no SECRET, or a short one",
            f"give at least {LEAST_SECRET_LENGTH} characters that nobody can guess, or a list of such",
        )
    return list(secrets)


def _url(alias: str, given: Any) -> SplitResult:
    with suppress(ValueError):
        url = urlsplit(given) if isinstance(given, str) else None
        if url is not None and url.scheme in ("http", "https") and url.hostname and url.port != 0:
            if url.username is not None or url.password is not None:
                raise InvalidSetting(
                    f"QUEUE_TASKS[{alias!r}]",
                    "URL holds a login",
                    "leave it out: requests are signed with SECRET",
                )
            return url
    raise InvalidSetting(
        f"QUEUE_TASKS[{alias!r}]",
        "OPTIONS has no URL that can be used",
        "give the route's, like https://shop.example/queue/tasks/knock",
    )


def _timeout(alias: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 60:
        raise InvalidSetting(
            f"QUEUE_TASKS[{alias!r}]", f"TIMEOUT_SECONDS is {given!r}", "give a number of seconds up to 60"
        )
    return float(given)

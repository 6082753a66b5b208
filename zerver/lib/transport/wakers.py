"""How workers hear of new rows within 100 ms without asking the database all day.

SQLite counts commits: ``PRAGMA data_version`` on a connection of our own costs 5 µs, and is asked every 20 ms; every
5 ms while there are commits.
PostgreSQL tells: ``LISTEN``, with the queue as payload. Where neither can be had, workers poll once a second; that
they do in any case, so a waker that fails costs latency and nothing else.
"""

import os
import select
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, ClassVar, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib import clock, signals
from zerver.lib.event_table_sql import CHANNEL

Wake = Callable[[], None]

#: How often SQLite is asked for its count of commits: usually, and for how long more often after the last one.
_LOOK_SECONDS: Final = 0.02
_BUSY_LOOK_SECONDS: Final = 0.005
_BUSY_SECONDS: Final = 0.25
#: How soon a waker that lost its connection tries again; doubled each time, up to the second.
_RECONNECT_SECONDS: Final = (1.0, 30.0)
#: A server that vanished without a word is noticed after a minute, and not after two hours.
_KEEPALIVES: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
#: Among Django's connection parameters, those about how its ORM sends and reads values.
_DJANGOS_OWN: Final = ("cursor_factory", "context", "prepare_threshold")


class CannotListen(Exception):
    """The database works, but will never tell us of anything. The message says why."""


class Waker(ABC):
    """Calls whoever has subscribed to a queue when it may have new rows. Nothing runs while nobody has."""

    @abstractmethod
    def subscribe(self, queue: str, wake: Wake) -> Callable[[], None]:
        """Have ``wake`` called, from any thread, soon after a commit that concerns the queue.

        Shape: call the result to end it. ``wake`` must be quick and must not raise. It may be called for nothing.
        """


class PollOnly(Waker):
    """For databases that can tell nothing."""

    def subscribe(self, queue: str, wake: Wake) -> Callable[[], None]:
        return lambda: None


class ThreadWaker(Waker):
    """One daemon thread while anybody subscribes; says by ``waking_changed`` when it fails and when it works again."""

    thread_name: ClassVar[str]

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._lock = threading.Lock()
        self._subscribers: dict[object, tuple[str, Wake]] = {}
        self._stop: StopSign | None = None
        self._is_listening = True

    @abstractmethod
    def listen(self, stop: "StopSign") -> None:
        """Wake subscribers until told to stop. Raises: CannotListen; or anything else, to be called again later."""

    def subscribe(self, queue: str, wake: Wake) -> Callable[[], None]:
        ticket = object()
        with self._lock:
            self._subscribers[ticket] = (queue, wake)
            if self._stop is None:
                self._stop = StopSign()
                name = f"{self.thread_name}-{self.alias}"
                threading.Thread(target=self._run, args=(self._stop,), name=name, daemon=True).start()
        return lambda: self._unsubscribe(ticket)

    def wake(self, queue: str | None) -> None:
        """Call the queue's subscribers; with None, everybody."""
        with self._lock:
            wakes = [wake for name, wake in self._subscribers.values() if queue in (None, name)]
        for wake in wakes:
            wake()

    def _unsubscribe(self, ticket: object) -> None:
        with self._lock:
            self._subscribers.pop(ticket, None)
            if not self._subscribers and self._stop is not None:
                self._stop.set()
                self._stop = None

    def _run(self, stop: "StopSign") -> None:
        pause_seconds, longest_seconds = _RECONNECT_SECONDS
        with closing(stop):
            while not stop.is_set():
                try:
                    self.listen(stop)
                except CannotListen as problem:
                    self._tell(is_listening=False, problem=str(problem))
                    return
                except Exception as error:
                    if self._tell(is_listening=False, problem=str(error).strip() or type(error).__name__):
                        pause_seconds, _ = _RECONNECT_SECONDS
                    stop.wait(pause_seconds)
                    pause_seconds = min(pause_seconds * 2, longest_seconds)

    def works(self) -> None:
        """For ``listen`` to say that it hears. What happened before that nobody has been told: all have to look."""
        self._tell(is_listening=True, problem="")
        self.wake(None)

    def _tell(self, *, is_listening: bool, problem: str) -> bool:
        """Whether it was news."""
        if is_listening is self._is_listening:
            return False
        self._is_listening = is_listening
        signals.waking_changed.send_robust(
            sender=None, database=self.alias, is_listening=is_listening, problem=problem
        )
        return True


class StopSign:
    """An event that can be waited for together with a socket."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reader, self._writer = os.pipe()
        self._lock = threading.Lock()

    def set(self) -> None:
        with self._lock:
            if not self._event.is_set():
                self._event.set()
                os.close(self._writer)  # which makes the other end readable

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)

    def wait_readable(self, descriptor: int) -> None:
        """Return when the descriptor can be read, or the sign is up."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self._reader, select.POLLIN)
        poll.poll()

    def close(self) -> None:
        self.set()
        os.close(self._reader)


class SqliteWaker(ThreadWaker):
    """Cannot know which queue a commit was for, so it wakes all of them; a look costs a worker a tenth of a ms."""

    thread_name: ClassVar[str] = "zerver-sqlite-waker"

    def __init__(self, alias: str, path: str) -> None:
        super().__init__(alias)
        self._path = path

    def listen(self, stop: StopSign) -> None:
        with closing(sqlite3.connect(self._path, timeout=0, isolation_level=None, uri=True)) as connection:
            connection.execute("PRAGMA query_only = 1")
            seen = _data_version(connection)
            self.works()
            busy_until = 0.0
            while not stop.wait(_BUSY_LOOK_SECONDS if clock.monotonic() < busy_until else _LOOK_SECONDS):
                version = _data_version(connection)
                if version != seen:
                    seen, busy_until = version, clock.monotonic() + _BUSY_SECONDS
                    self.wake(None)


def _data_version(connection: sqlite3.Connection) -> int | None:
    try:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return (
                None  # without WAL a writer shuts readers out for a moment: then something changes for sure
            )
        raise


class PostgresWaker(ThreadWaker):
    """LISTENs on a connection of its own."""

    thread_name: ClassVar[str] = "zerver-postgres-waker"

    def __init__(self, alias: str, connection_options: Mapping[str, Any]) -> None:
        super().__init__(alias)
        self._options = connection_options

    def listen(self, stop: StopSign) -> None:
        with self._connected() as connection:
            libpq = connection.pgconn
            self.works()
            while not stop.is_set():
                notify = libpq.notifies()
                while notify is not None:
                    self.wake(notify.extra.decode())
                    notify = libpq.notifies()
                stop.wait_readable(libpq.socket)
                libpq.consume_input()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        # Not Django's connection: that may come from a pool, and dies with whatever request or handler it belongs to.
        try:
            import psycopg
        except ImportError as error:
            raise CannotListen(f"psycopg 3 is not installed: {error}") from error
        options = {name: value for name, value in self._options.items() if name not in _DJANGOS_OWN}
        with closing(psycopg.connect(**{**_KEEPALIVES, **options, "autocommit": True})) as connection:
            self._refuse_pooler(connection)
            connection.execute(f"LISTEN {CHANNEL}")
            yield connection

    def _refuse_pooler(self, connection: Any) -> None:
        """A pooler in transaction mode accepts LISTEN and then delivers nothing; session mode looks the same from here.

        It gives clients a process id of its own making, by which they may ask it to cancel a query.
        """
        server_pid = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
        if server_pid != connection.info.backend_pid:
            raise CannotListen("a connection pooler stands before the server, and may not pass on NOTIFY")


_lock = threading.Lock()
_wakers: dict[tuple[str, ...], Waker] = {}


def waker_of(alias: str) -> Waker:
    """The one waker of this process for the database that ``alias`` names now; tests point aliases elsewhere."""
    wrapper = connections[alias]
    key = tuple(str(wrapper.settings_dict[name]) for name in ("ENGINE", "HOST", "PORT", "NAME"))
    with _lock:
        waker = _wakers.get(key)
        if waker is None:
            waker = _wakers[key] = _make(wrapper)
        return waker


def _make(wrapper: BaseDatabaseWrapper) -> Waker:
    if wrapper.vendor == "postgresql":
        return PostgresWaker(wrapper.alias, wrapper.get_connection_params())
    if wrapper.vendor == "sqlite" and not wrapper.is_in_memory_db():  # type: ignore[attr-defined]  # SQLite's own
        return SqliteWaker(wrapper.alias, str(wrapper.settings_dict["NAME"]))
    return PollOnly()


def _after_fork() -> None:
    """Threads and subscribers stayed with the parent. Its SQLite connections must not even be closed here, so all of
    it is kept, unused.
    """
    global _lock, _wakers
    _left_behind.append(_wakers)
    _lock, _wakers = threading.Lock(), {}


_left_behind: list[object] = []
os.register_at_fork(after_in_child=_after_fork)

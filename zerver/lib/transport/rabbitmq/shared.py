"""The one broker connection that all lanes of a worker process share, but for those that would break it."""

import threading
from typing import Protocol

import pika

from zerver.lib.errors import BrokerFailed, TransportUnavailable
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, ConnectionListener
from zerver.lib.transport.rabbitmq.topology import Declarer
from zerver.lib.transport.rabbitmq.turns import Turns


class Connect(Protocol):
    """Makes a connection, and does not start it."""

    def __call__(self, name: str, *, is_quiet: bool) -> BrokerConnection: ...


class WorkerConnection(ConnectionListener):
    """A connection, the declarer of its present life, and whose turn it is to ask something of the broker."""

    def __init__(self, connection: BrokerConnection, *, is_apart: bool = False) -> None:
        self.connection = connection
        #: It is one lane's own, which broke the one that all share: that lane tells what becomes of it.
        self.is_apart = is_apart
        self.declarer: Declarer | None = None
        self.turns = Turns(connection.call_later)
        connection.add_listener(self)

    def on_open(self, connection: pika.SelectConnection) -> None:
        self.declarer = Declarer(self.connection, connection)

    def on_away(self, problem: TransportUnavailable) -> None:
        self.declarer = None
        at_fault = self.turns.end(is_broken=isinstance(problem, BrokerFailed))
        if at_fault is not None:
            # Once everybody has been told that the connection is gone.
            self.connection.call_soon(at_fault.on_fault)


class SharedConnection:
    """Opened for the first lane, closed after the last. Some lanes may have one apart, each its own."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._current: WorkerConnection | None = None
        self._users = 0
        self._apart: list[WorkerConnection] = []

    def acquire(self, name: str) -> WorkerConnection:
        """Raises nothing for a broker that is away. ``name``, the first lane's, is what the broker's listing shows."""
        with self._lock:
            if self._current is None:
                self._current = self._started(name)
            self._users += 1
            return self._current

    def acquire_apart(self, name: str, worker: WorkerConnection) -> WorkerConnection | None:
        """For one of the lanes of ``worker``, one that nobody else gets; None where no other lane suffers with it.

        It is released as others are; and so is ``worker``, which the lane has no more.
        Raises: RuntimeError when there can be no more threads.
        """
        if not self._has_others(worker):
            return None
        apart = self._started(name, is_apart=True)
        with self._lock:
            is_closed = worker is not self._current  # meanwhile, with all that there was then
            if not is_closed:
                self._apart.append(apart)
        if is_closed:
            apart.connection.close(0)
            return None
        return apart

    def _started(self, name: str, *, is_apart: bool = False) -> WorkerConnection:
        """Raises: RuntimeError when there can be no more threads."""
        worker = WorkerConnection(self._connect(name, is_quiet=is_apart), is_apart=is_apart)
        try:
            worker.connection.start()
        except RuntimeError:
            worker.connection.close(0)
            raise
        return worker

    def _has_others(self, worker: WorkerConnection) -> bool:
        with self._lock:
            return worker is self._current and self._users > 1

    def release(self, worker: WorkerConnection, timeout_seconds: float) -> None:
        """``worker`` as ``acquire`` gave it."""
        with self._lock:
            if worker in self._apart:
                self._apart.remove(worker)
            elif worker is not self._current:
                return  # closed before, and what is there now belongs to others
            else:
                self._users -= 1
                if self._users:
                    return
                # Under the same lock: whoever comes now gets a connection of their own, and not one that is being
                # closed.
                self._current = None
        worker.connection.close(timeout_seconds)

    def close(self, timeout_seconds: float) -> None:
        """Now, whoever still uses it: what they hold unsettled comes again."""
        with self._lock:
            open_ones = [*self._apart, *([] if self._current is None else [self._current])]
            self._apart, self._current, self._users = [], None, 0
        for worker in open_ones:
            worker.connection.close(timeout_seconds)

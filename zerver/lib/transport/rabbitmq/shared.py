"""The one broker connection that all lanes of a worker process share."""

import threading
from collections.abc import Callable

import pika

from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, ConnectionListener
from zerver.lib.transport.rabbitmq.topology import Declarer


class WorkerConnection(ConnectionListener):
    """A connection and the declarer of its present life."""

    def __init__(self, connection: BrokerConnection) -> None:
        self.connection = connection
        self.declarer: Declarer | None = None
        connection.add_listener(self)

    def on_open(self, connection: pika.SelectConnection) -> None:
        self.declarer = Declarer(self.connection, connection)

    def on_away(self, problem: TransportUnavailable) -> None:
        self.declarer = None


class SharedConnection:
    """Opened for the first lane, closed after the last."""

    def __init__(self, connect: Callable[[str], BrokerConnection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._current: WorkerConnection | None = None
        self._users = 0

    def acquire(self, name: str) -> WorkerConnection:
        """Raises nothing for a broker that is away. ``name``, the first lane's, is what the broker's listing shows."""
        with self._lock:
            if self._current is None:
                self._current = WorkerConnection(self._connect(name))
                self._current.connection.start()
            self._users += 1
            return self._current

    def release(self, worker: WorkerConnection, timeout_seconds: float) -> None:
        """``worker`` as ``acquire`` gave it."""
        with self._lock:
            if worker is not self._current:
                return  # closed before, and what is there now belongs to others
            self._users -= 1
            if self._users:
                return
            # Under the same lock: whoever comes now gets a connection of their own, and not one that is being closed.
            self._current = None
        worker.connection.close(timeout_seconds)

    def close(self, timeout_seconds: float) -> None:
        """Now, whoever still uses it: what they hold unsettled comes again."""
        with self._lock:
            last, self._current = self._current, None
            self._users = 0
        if last is not None:
            last.connection.close(timeout_seconds)

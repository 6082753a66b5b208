"""The way around a thread that stands still: a second connection, whose loop the callers turn while they wait.

Some servers freeze all other threads between two requests (uWSGI without ``enable-threads``).
"""

import threading
from collections.abc import Callable, Sequence

from zerver.lib.clock import monotonic
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Published
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, State
from zerver.lib.transport.rabbitmq.engine import PublishEngine
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.flight import Batch, Finish, refused

#: Kept for so long after it was used last.
DISUSED_SECONDS = 60.0
CLOSE_DISUSED_SECONDS = 0.5


class TurnedPublisher:
    """Thread-safe, one caller at a time; connects when it is first used."""

    def __init__(self, address: BrokerAddress, declaration_of: Callable[[str], QueueDeclaration]) -> None:
        self._address = address
        self._declaration_of = declaration_of
        self._engine: PublishEngine | None = None
        self._used_at = 0.0
        #: Held by the caller that turns the loop.
        self._turning = threading.Lock()

    @property
    def is_away(self) -> bool:
        engine = self._engine
        return engine is not None and engine.connection.problem is not None

    def publish(self, events: Sequence[Event], deadline: float) -> list[Published]:
        if not self._turning.acquire(timeout=max(0.0, deadline - monotonic())):
            return [refused("another thread was publishing until the deadline")] * len(events)
        try:
            return self._publish(events, deadline)
        except OSError as error:  # of making a connection: no more descriptors
            return [refused(f"no connection can be begun: {describe(error)}")] * len(events)
        finally:
            self._turning.release()

    def close(self, timeout_seconds: float) -> None:
        with self._turning:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.connection.close(timeout_seconds)

    def close_disused(self) -> None:
        """Between two calls nobody sends heartbeats on it: it is not kept where the thread goes again."""
        is_disused = self._engine is not None and monotonic() - self._used_at > DISUSED_SECONDS
        if is_disused and not self._turning.locked():
            self.close(CLOSE_DISUSED_SECONDS)

    def _publish(self, events: Sequence[Event], deadline: float) -> list[Published]:
        engine = self._engine
        if engine is None:
            connection = BrokerConnection(
                self._address, "publisher", "publisher (no threads)", heartbeat_seconds=0
            )
            engine = self._engine = PublishEngine(connection, self._declaration_of)
        connection = engine.connection
        # First see what happened since the last call: a connection that was lost, a retry that is due.
        connection.turn(lambda: True, monotonic())
        connection.turn(lambda: connection.state is not State.CONNECTING, deadline)
        self._used_at = monotonic()

        def begin(some: Sequence[Event]) -> Finish:
            batch = Batch(some)
            engine.hand_over(batch)

            def finish(deadline: float) -> list[Published]:
                connection.turn(batch.is_done, deadline)
                return engine.conclude(batch)

            return finish

        return engine.begun(events, deadline - monotonic(), begin)(deadline)

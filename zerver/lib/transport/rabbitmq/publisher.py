"""The publisher of a process: callers on any thread, one connection, an answer for every event before the deadline."""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial

from zerver.lib.clock import monotonic
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Fate, Published
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.connection import BrokerConnection
from zerver.lib.transport.rabbitmq.engine import PublishEngine
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.flight import Batch, Finish, refused
from zerver.lib.transport.rabbitmq.loop import FROZEN_SECONDS
from zerver.lib.transport.rabbitmq.turned import TurnedPublisher


class Publisher:
    """Thread-safe, and fork-safe: every process id has its own connections, made when they are first needed."""

    def __init__(self, address: BrokerAddress, declaration_of: Callable[[str], QueueDeclaration]) -> None:
        self._address = address
        self._declaration_of = declaration_of
        self._by_pid: dict[int, ProcessPublisher] = {}

    def publish(self, events: Sequence[Event], timeout_seconds: float) -> list[Published]:
        """Wait once for all. Never longer than ``timeout_seconds``, whatever the broker does; raises nothing for it."""
        if not events:
            return []
        deadline = monotonic() + timeout_seconds
        return self.of_process().begin(events, timeout_seconds)(deadline)

    def begin(self, events: Sequence[Event], timeout_seconds: float) -> Finish:
        """Send them on their way; what is returned waits for the answers, and must be called.

        ``timeout_seconds``: about how long that is going to wait.
        """
        return self.of_process().begin(events, timeout_seconds)

    @property
    def is_away(self) -> bool:
        """Whether publishing would be refused at once, as far as this process knows."""
        return self.of_process().is_away

    def close(self, timeout_seconds: float = 5.0) -> None:
        publisher = self._by_pid.pop(os.getpid(), None)
        if publisher is not None:
            publisher.close(timeout_seconds)

    def of_process(self) -> "ProcessPublisher":
        pid = os.getpid()
        publisher = self._by_pid.get(pid)
        if publisher is None:
            # Atomic without a lock: one that was held in the parent while it forked would be held here for ever.
            publisher = self._by_pid.setdefault(pid, ProcessPublisher(self._address, self._declaration_of))
        return publisher


class ProcessPublisher:
    """Of one process: the engine on its I/O thread, and the way around that thread while it stands still."""

    def __init__(self, address: BrokerAddress, declaration_of: Callable[[str], QueueDeclaration]) -> None:
        self._address = address
        self._declaration_of = declaration_of
        self._lock = threading.Lock()
        self._engine: PublishEngine | None = None
        self._turned = TurnedPublisher(address, declaration_of)

    @property
    def is_away(self) -> bool:
        engine = self._engine
        if engine is None:
            return False
        if engine.connection.is_frozen():
            # What it knew when it froze is old news.
            return self._turned.is_away
        return engine.connection.problem is not None

    def begin(self, events: Sequence[Event], timeout_seconds: float) -> Finish:
        try:
            engine = self.engine()
        except (
            OSError,
            RuntimeError,
        ) as error:  # no more descriptors or threads; or the interpreter is ending
            problem = f"no connection can be begun: {describe(error)}"
            return lambda _: [refused(problem)] * len(events)
        if engine.connection.is_frozen():
            return partial(self._turned.publish, events)
        self._turned.close_disused()
        return engine.begun(events, timeout_seconds, partial(self._begin_over, engine))

    def close(self, timeout_seconds: float) -> None:
        deadline = monotonic() + timeout_seconds
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.connection.close(timeout_seconds)
        self._turned.close(max(0.0, deadline - monotonic()))

    def engine(self) -> PublishEngine:
        """Raises: OSError, RuntimeError when there can be none."""
        with self._lock:
            if self._engine is None:
                connection = BrokerConnection(self._address, "publisher", "publisher")
                engine = PublishEngine(connection, self._declaration_of)
                try:
                    connection.start()
                except RuntimeError:
                    connection.close(0)
                    raise
                self._engine = engine
            return self._engine

    def _begin_over(self, engine: PublishEngine, events: Sequence[Event]) -> Finish:
        """Over the I/O thread."""
        batch = Batch(events)
        engine.hand_over(batch)
        return partial(self._finish, engine, batch)

    def _finish(self, engine: PublishEngine, batch: Batch, deadline: float) -> list[Published]:
        while not batch.is_done():
            seconds = deadline - monotonic()
            if seconds <= 0:
                break
            if engine.connection.is_frozen() and batch.waiting_unsent():
                return self._rescue(engine, batch, deadline)
            batch.wait(min(seconds, FROZEN_SECONDS))
        return engine.conclude(batch)

    def _rescue(self, engine: PublishEngine, batch: Batch, deadline: float) -> list[Published]:
        """The thread froze while we waited: what it has not sent goes the other way."""
        answers = engine.conclude(batch)
        unsent = [index for index, answer in enumerate(answers) if answer.fate is Fate.REFUSED]
        again = self._turned.publish([batch.events[index] for index in unsent], deadline)
        for index, answer in zip(unsent, again, strict=True):
            answers[index] = answer
        return answers

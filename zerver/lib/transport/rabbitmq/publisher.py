"""The publisher of a process: callers on any thread, one connection, an answer for every event before the deadline."""

import os
import threading
from collections.abc import Callable, Sequence, Set

from zerver.lib.clock import monotonic
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Fate, Published
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, State
from zerver.lib.transport.rabbitmq.engine import NOT_CONFIRMING, PublishEngine
from zerver.lib.transport.rabbitmq.flight import Batch, refused
from zerver.lib.transport.rabbitmq.loop import FROZEN_SECONDS


class Publisher:
    """Thread-safe, and fork-safe: every process id has its own engines, made when they are first needed."""

    def __init__(self, address: BrokerAddress, declaration_of: Callable[[str], QueueDeclaration]) -> None:
        self._address = address
        self._declaration_of = declaration_of
        self._by_pid: dict[int, _Engines] = {}

    def publish(self, events: Sequence[Event], timeout_seconds: float) -> list[Published]:
        """Wait once for all. Never longer than ``timeout_seconds``, whatever the broker does; raises nothing for it."""
        if not events:
            return []
        return self._engines().publish(events, monotonic() + timeout_seconds)

    @property
    def is_away(self) -> bool:
        """Whether publishing would be refused at once, as far as this process knows."""
        return self._engines().is_away

    def close(self, timeout_seconds: float = 5.0) -> None:
        engines = self._by_pid.pop(os.getpid(), None)
        if engines is not None:
            engines.close(timeout_seconds)

    def _engines(self) -> "_Engines":
        pid = os.getpid()
        engines = self._by_pid.get(pid)
        if engines is None:
            # Atomic without a lock: one that was held in the parent while it forked would be held here for ever.
            engines = self._by_pid.setdefault(pid, _Engines(self._address, self._declaration_of))
        return engines


class _Engines:
    """Of one process: the engine on its I/O thread, and the one that a caller turns where threads stand still."""

    def __init__(self, address: BrokerAddress, declaration_of: Callable[[str], QueueDeclaration]) -> None:
        self._address = address
        self._declaration_of = declaration_of
        self._lock = threading.Lock()
        self._threaded: PublishEngine | None = None
        #: One that the broker reads no longer; it still hears of what it has sent.
        self._clogged: PublishEngine | None = None
        self._turned: PublishEngine | None = None
        #: Held by the caller that turns it.
        self._turning = threading.Lock()

    @property
    def is_away(self) -> bool:
        engine = self._threaded
        if engine is not None and engine.connection.is_frozen():
            # What it knew when it froze is old news.
            engine = self._turned
        return engine is not None and engine.connection.problem is not None

    def publish(self, events: Sequence[Event], deadline: float) -> list[Published]:
        engine = self._threaded_engine()
        if engine.connection.is_frozen():
            return self._publish_by_turning(events, deadline)
        clogged = self._clogged
        halted = frozenset() if clogged is None else clogged.halted_queues
        return _answered(
            engine, events, deadline, lambda some: self._publish_over(engine, some, deadline), halted
        )

    def close(self, timeout_seconds: float) -> None:
        with self._lock:
            threaded, self._threaded = self._threaded, None
            clogged, self._clogged = self._clogged, None
        with self._turning:
            turned, self._turned = self._turned, None
        for engine in (threaded, clogged, turned):
            if engine is not None:
                engine.connection.close(timeout_seconds)

    def _threaded_engine(self) -> PublishEngine:
        with self._lock:
            if self._clogged is not None and not self._clogged.is_waiting:
                self._clogged.connection.leave()
                self._clogged = None
            if self._threaded is not None and self._threaded.halted_queues:
                if self._clogged is not None:
                    self._clogged.connection.leave()
                self._clogged, self._threaded = self._threaded, None
            if self._threaded is None:
                connection = BrokerConnection(self._address, "publisher", "publisher")
                self._threaded = PublishEngine(connection, self._declaration_of)
                connection.start()
            return self._threaded

    def _publish_over(
        self, engine: PublishEngine, events: Sequence[Event], deadline: float
    ) -> list[Published]:
        """Over the I/O thread."""
        batch = Batch(events)
        engine.hand_over(batch)
        while not batch.wait(max(0.0, min(deadline - monotonic(), FROZEN_SECONDS))):
            if monotonic() >= deadline:
                break
            if engine.connection.is_frozen() and batch.waiting_unsent():
                return self._rescue(engine, batch, deadline)
        return _conclude(engine, batch)

    def _rescue(self, engine: PublishEngine, batch: Batch, deadline: float) -> list[Published]:
        """The thread froze while we waited: what it has not sent goes the other way."""
        answers = _conclude(engine, batch)
        unsent = [index for index, answer in enumerate(answers) if answer.fate is Fate.REFUSED]
        again = self._publish_by_turning([batch.events[index] for index in unsent], deadline)
        for index, answer in zip(unsent, again, strict=True):
            answers[index] = answer
        return answers

    def _publish_by_turning(self, events: Sequence[Event], deadline: float) -> list[Published]:
        """Over a second connection whose loop this thread turns for as long as it waits."""
        if not self._turning.acquire(timeout=max(0.0, deadline - monotonic())):
            return [refused("another thread was publishing until the deadline")] * len(events)
        try:
            if self._turned is None:
                # Without heartbeats: between two calls nobody is there to send them.
                connection = BrokerConnection(
                    self._address, "publisher", "publisher (no threads)", heartbeat_seconds=0
                )
                self._turned = PublishEngine(connection, self._declaration_of)
            engine = self._turned
            # First see what happened since the last call: a connection that was lost, a retry that is due.
            engine.connection.turn(lambda: True, monotonic())
            engine.connection.turn(lambda: engine.connection.state is not State.CONNECTING, deadline)
            return _answered(engine, events, deadline, lambda some: _turn(engine, some, deadline))
        finally:
            self._turning.release()


def _turn(engine: PublishEngine, events: Sequence[Event], deadline: float) -> list[Published]:
    batch = Batch(events)
    engine.hand_over(batch)
    engine.connection.turn(batch.is_done, deadline)
    return _conclude(engine, batch)


def _answered(
    engine: PublishEngine,
    events: Sequence[Event],
    deadline: float,
    publish: Callable[[Sequence[Event]], list[Published]],
    halted: Set[str] = frozenset(),
) -> list[Published]:
    """Answer at once what needs no asking, ``publish`` the rest, and put the answers in order."""
    timeout_seconds = deadline - monotonic()
    refusals = [
        NOT_CONFIRMING if event.queue in halted else engine.refusal(event, timeout_seconds)
        for event in events
    ]
    rest = [event for event, refusal in zip(events, refusals, strict=True) if refusal is None]
    answers = iter(publish(rest) if rest else ())
    return [next(answers) if refusal is None else refusal for refusal in refusals]


def _conclude(engine: PublishEngine, batch: Batch) -> list[Published]:
    answers = batch.conclude("the broker did not answer before the deadline")
    engine.note_unanswered(batch)
    return answers

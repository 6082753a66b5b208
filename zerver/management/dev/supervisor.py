"""Keeps a few services running until told to stop.

One loop on the main thread decides everything; signals, watcher and children's ends only post messages to it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import assert_never

from zerver.management.dev.child import Child
from zerver.management.dev.console import Console

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
#: Who has run for so long and dies is started again without a long pause.
_HEALTHY_SECONDS = 10.0
#: A terminal's Ctrl-C may come twice, from the terminal and passed on by a wrapper; only a later one means "at once".
_SAME_PRESS_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What to run, and how long it may take to end."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    #: From SIGTERM to SIGKILL.
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End everything in good order; a second one, at once."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Code has changed: start everything anew."""

    #: What has changed, for people.
    what: str


@dataclass(slots=True, eq=False)
class _Slot:
    """A service and where it stands."""

    service: Service
    child: Child | None = None
    started_at: float = 0.0
    #: Start it then; None: not waiting for that.
    start_at: float | None = None
    #: It was asked to end; its end is no surprise.
    is_asked: bool = False
    #: Kill it then.
    kill_at: float | None = None
    pause_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Ended:
    slot: _Slot
    child: Child


Message = Stop | Changed | _Ended


class Supervisor:
    """Runs services; starts again those that die, unless ``restart`` is False: then a death ends everything."""

    def __init__(
        self,
        services: Sequence[Service],
        console: Console,
        *,
        restart: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = [_Slot(service) for service in services]
        self._console = console
        self._restart = restart
        self._now = now
        # SimpleQueue.put may be called by a signal handler that interrupts another put; Queue's may not.
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._stopped_at: float | None = None
        #: Set once everything is being ended.
        self.stopping = threading.Event()
        #: Why a death ended everything, in one line; empty when nothing did.
        self.failure = ""

    def post(self, message: Stop | Changed) -> None:
        """Any thread and any signal handler may."""
        self._messages.put(message)

    def run(self) -> None:
        """Until everything has ended. On the main thread: see ``Child``."""
        try:
            for slot in self._slots:
                self._start(slot)
            while not self.stopping.is_set() or any(slot.child for slot in self._slots):
                message = self._next_message()
                if message is not None:
                    self._take(message)
                self._keep_time()
        finally:
            self.stopping.set()
            for slot in self._slots:
                if slot.child is not None:
                    slot.child.kill()

    def _next_message(self) -> Message | None:
        """None: a time has come."""
        times = [at for slot in self._slots for at in (slot.start_at, slot.kill_at) if at is not None]
        try:
            return self._messages.get(timeout=max(0.0, min(times) - self._now()) if times else None)
        except Empty:
            return None

    def _take(self, message: Message) -> None:
        match message:
            case Stop():
                self._stop()
            case Changed():
                self._start_anew(message.what)
            case _Ended():
                self._ended(message.slot, message.child)
            case _:
                assert_never(message)

    def _keep_time(self) -> None:
        now = self._now()
        for slot in self._slots:
            if slot.start_at is not None and slot.start_at <= now:
                self._start(slot)
            if slot.kill_at is not None and slot.kill_at <= now and slot.child is not None:
                slot.kill_at = None
                self._console.note(
                    f"{slot.service.name} did not end in {slot.service.grace_seconds:g} s: killed"
                )
                slot.child.kill()

    def _start(self, slot: _Slot) -> None:
        service = slot.service
        slot.start_at = None
        slot.started_at = self._now()
        slot.child = Child(
            service.command,
            service.env,
            on_line=lambda line: self._console.passed_on(service.name, line),
            on_end=lambda child: self._messages.put(_Ended(slot, child)),
        )

    def _ask_to_end(self, slot: _Slot) -> None:
        if slot.child is not None and not slot.is_asked:
            slot.is_asked = True
            slot.kill_at = self._now() + slot.service.grace_seconds
            slot.child.terminate()

    def _ended(self, slot: _Slot, child: Child) -> None:
        was_asked = slot.is_asked
        slot.child = slot.kill_at = None
        slot.is_asked = False
        if self.stopping.is_set():
            return
        if was_asked:
            slot.pause_seconds = 0.0
            self._start(slot)
        elif self._restart:
            self._start_later(slot, child)
        else:
            self.failure = f"{slot.service.name} {child.end}"
            self._stop()

    def _start_later(self, slot: _Slot, child: Child) -> None:
        was_healthy = self._now() - slot.started_at >= _HEALTHY_SECONDS
        pause = _FIRST_PAUSE_SECONDS if was_healthy or not slot.pause_seconds else slot.pause_seconds * 2
        slot.pause_seconds = min(pause, _LONGEST_PAUSE_SECONDS)
        slot.start_at = self._now() + slot.pause_seconds
        self._console.note(f"{slot.service.name} {child.end}; starting it again in {slot.pause_seconds:g} s")

    def _start_anew(self, what: str) -> None:
        if self.stopping.is_set():
            return
        self._console.note(f"{what} changed: starting anew")
        for slot in self._slots:
            if slot.child is None:
                # It waits after a death; the change may be the mend.
                slot.pause_seconds = 0.0
                self._start(slot)
            else:
                self._ask_to_end(slot)

    def _stop(self) -> None:
        now = self._now()
        if self._stopped_at is None:
            self._stopped_at = now
            self.stopping.set()
            for slot in self._slots:
                slot.start_at = None
                self._ask_to_end(slot)
        elif now - self._stopped_at >= _SAME_PRESS_SECONDS:
            self._console.note("told twice: killing what still runs")
            for slot in self._slots:
                if slot.child is not None:
                    slot.child.kill()

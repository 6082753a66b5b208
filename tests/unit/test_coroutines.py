"""Coroutines on their event loop: whose time is up, who is to blame, and that every call comes to an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.immediate import ImmediateLane, ImmediateTransport
from zerver.worker import coroutines as of_coroutines
from zerver.worker import event_loop as of_loop
from zerver.worker.base import QueueProcessingWorker
from zerver.worker.coroutines import Call, Coroutines
from zerver.worker.event_loop import EventLoop
from zerver.worker.handler import Handler
from zerver.worker.outcomes import DONE, Failure
from zerver.worker.timeouts import Running, Watchdog

#: As long as no test takes.
LONG_SECONDS = 60.0


@dataclass
class Scene:
    """Coroutines that do what the test says, under a watchdog that looks when the test has it look.

    The time of one that begins later must not be up before.
    """

    loop: EventLoop
    ended: list[Call] = field(default_factory=list)
    #: Whom the watchdog has found.
    found: list[Running] = field(default_factory=list)
    #: What blocks the loop does so until then.
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        class Worker(QueueProcessingWorker):
            async def consume(self, event: Callable[[], Any]) -> None:
                await event()

        queue = QueueDeclaration(name="letters", is_async=True)
        handler = Handler(queue, Worker(), "default")
        self.watchdog = Watchdog(self.found.append)
        self.coroutines = Coroutines(queue, handler, self.loop, self.watchdog, self.collect)

    def collect(self) -> None:
        self.ended.extend(self.coroutines.take_ended())

    def call(self, do: Callable[[], Any], *, timeout_seconds: float = LONG_SECONDS) -> Call:
        event = Event(queue="letters", message_id="a", body=b"{}", published_at_ms=0)
        lane = ImmediateLane(ImmediateTransport(None), "letters")
        delivery = Delivery(event=event, lane=lane, token=0, redelivered=False, received_at=0.0)
        return Call(
            queue="letters",
            deliveries=[delivery],
            started_at=clock.monotonic(),
            timeout_seconds=timeout_seconds,
            needs_soft=False,
            coroutines=self.coroutines,
            delivery=delivery,
            event=do,
        )

    def begin(self, *calls: Call) -> None:
        """Until each of them runs."""
        self.coroutines.begin(calls)
        wait_for(lambda: all(call in self.watchdog.running or call in self.ended for call in calls))

    def wait_for_end(self, *calls: Call) -> None:
        wait_for(lambda: all(call in self.ended for call in calls))

    async def wait(self) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.001)

    async def block(self) -> None:
        await asyncio.sleep(0.01)
        self.gate.wait()

    async def block_in_a_task(self) -> None:
        await asyncio.gather(self.block())

    async def stay_deaf(self) -> None:
        while not self.gate.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(of_coroutines, "HARD_GRACE_SECONDS", 0.02)
    monkeypatch.setattr(of_loop, "_ANSWER_SECONDS", 0.02)
    monkeypatch.setattr(Watchdog, "_arm_last_resort", lambda _: None)  # which would end the tests
    with EventLoop("letters") as loop:
        made = Scene(loop)
        yield made
        made.gate.set()


def outcomes(*calls: Call) -> list[object]:
    return [call.result.error if isinstance(call.result, Failure) else call.result for call in calls]


def test_each_is_cancelled_when_its_own_time_is_up_and_the_others_go_on(scene: Scene) -> None:
    slow, slower = scene.call(scene.wait, timeout_seconds=0.03), scene.call(scene.wait, timeout_seconds=0.06)
    patient, quick = scene.call(scene.wait), scene.call(lambda: asyncio.sleep(0), timeout_seconds=0.03)
    scene.begin(quick, slow, slower, patient)
    scene.wait_for_end(quick, slow, slower)
    assert scene.ended == [quick, slow, slower]
    scene.gate.set()
    scene.wait_for_end(patient)
    late = "ran over timeout_seconds=30"
    assert outcomes(quick, slow, slower, patient) == [DONE, late, late, DONE]
    assert [call.soft_fired for call in (quick, slow, slower, patient)] == [False, True, True, False]
    assert not scene.watchdog.running


def test_one_that_bears_its_cancellation_and_returns_is_done(scene: Scene) -> None:
    async def tidy_up() -> None:
        try:
            await asyncio.sleep(LONG_SECONDS)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    call = scene.call(tidy_up, timeout_seconds=0.01)
    scene.begin(call)
    scene.wait_for_end(call)
    assert (call.result, call.soft_fired) == (DONE, True)


def test_one_that_is_cancelled_before_it_began_ends_all_the_same(scene: Scene) -> None:
    async def cancel_everybody() -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    calls = [scene.call(cancel_everybody), *(scene.call(scene.wait) for _ in range(3))]
    scene.begin(*calls)
    scene.wait_for_end(*calls)
    assert outcomes(*calls)[1:] == ["asyncio.exceptions.CancelledError"] * 3


def test_system_exit_ends_its_own_call_and_not_the_loop(scene: Scene) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def leave_in_a_task() -> None:
        await asyncio.gather(leave())

    calls = [scene.call(leave), scene.call(leave_in_a_task), scene.call(lambda: asyncio.sleep(0.01))]
    scene.begin(*calls)
    scene.wait_for_end(*calls)
    assert outcomes(*calls) == ["SystemExit: 3", "SystemExit: 3", DONE]


def test_who_goes_on_after_its_cancellation_is_to_blame(scene: Scene) -> None:
    deaf, patient = scene.call(scene.stay_deaf, timeout_seconds=0.01), scene.call(scene.wait)
    scene.begin(deaf, patient)
    wait_for(scene.watchdog._look)
    assert scene.found == [deaf]


def test_who_blocks_the_loop_is_to_blame_and_not_those_whom_it_keeps_from_ending(scene: Scene) -> None:
    waiting = [scene.call(scene.wait, timeout_seconds=0.02) for _ in range(3)]
    blocking = scene.call(scene.block, timeout_seconds=0.05)
    scene.begin(*waiting, blocking)
    wait_for(scene.watchdog._look)
    assert scene.found == [blocking]
    assert scene.coroutines.blocker() is blocking


def test_of_a_task_that_blocks_the_loop_nobody_can_tell_whose_it_is_unless_there_is_but_one(
    scene: Scene,
) -> None:
    blocking = scene.call(scene.block_in_a_task, timeout_seconds=0.02)
    waiting = scene.call(scene.wait, timeout_seconds=0.02)
    scene.begin(waiting, blocking)
    wait_for(scene.watchdog._look)
    assert scene.coroutines.blocker() is None
    assert scene.found == [waiting], "whoever is the first to be over its time"
    scene.watchdog.running.pop(waiting)
    assert scene.coroutines.blocker() is blocking


def test_a_loop_that_was_blocked_and_goes_on_has_nobody_to_blame(scene: Scene) -> None:
    blocking = scene.call(scene.block, timeout_seconds=LONG_SECONDS)
    waiting = scene.call(scene.wait, timeout_seconds=0.01)
    scene.begin(waiting, blocking)
    wait_for(lambda: scene.loop.has_run_since(clock.monotonic()) is False)
    assert not scene.watchdog._look()
    scene.gate.set()
    scene.wait_for_end(waiting, blocking)
    assert scene.found == []


def test_what_handlers_have_left_running_ends_with_the_loop() -> None:
    ends: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(LONG_SECONDS)
        finally:
            ends.append("cancelled")

    async def leave_something() -> None:
        asyncio.create_task(linger())  # noqa: RUF006 (as careless authors do)
        await asyncio.sleep(0)

    began = time.monotonic()
    with EventLoop("letters") as loop:
        loop.run_hook(leave_something)
    assert ends == ["cancelled"]
    assert time.monotonic() - began < LONG_SECONDS
    assert not loop.is_alive


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(2), KeyboardInterrupt()], ids=repr)
def test_a_hook_raises_what_it_raises_plain_or_not(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    def fail_plainly() -> None:
        raise error

    with EventLoop("letters") as loop:
        for hook in (fail, fail_plainly):
            with pytest.raises(type(error)) as raised:
                loop.run_hook(hook)
            assert raised.value is error
        assert loop.is_alive

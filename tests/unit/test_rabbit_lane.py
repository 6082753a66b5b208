"""A lane's timers, turned by hand: one for the acknowledgements that wait, none on a connection that was left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.connection import BrokerConnection
from zerver.lib.transport.rabbitmq.deliveries import Delivered
from zerver.lib.transport.rabbitmq.ioloop import Timer
from zerver.lib.transport.rabbitmq.lane import ACK_HOLD_SECONDS, RabbitLane
from zerver.lib.transport.rabbitmq.shared import SharedConnection


class Unstarted(BrokerConnection):
    """Has no thread and opens no socket."""

    def __init__(self) -> None:
        super().__init__(parse_address("amqp://127.0.0.1:1"), "worker", "test")
        self._ack_timers: list[Timer] = []

    def start(self) -> None:
        return

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        timer = super().call_later(seconds, callback)
        if seconds == ACK_HOLD_SECONDS:
            self._ack_timers.append(timer)
        return timer

    def turn_once(self) -> int:
        """How many timers for acknowledgements there are after it."""
        self._ioloop.turn()
        return sum(timer.callback is not None for timer in self._ack_timers)


class Scene:
    """A lane that consumes, as far as it knows. Another of its events is done whenever it acknowledges some."""

    def __init__(self, events: int) -> None:
        self.connection = Unstarted()
        self.lane = RabbitLane(
            SharedConnection(lambda name, *, is_quiet: self.connection),
            QueueDeclaration(name="parcels"),
            "test:1",
        )
        self.lane.start(lambda: None)
        self.connection.turn_once()
        self.subscription: Any = self.lane._subscription
        self.subscription._channel = SimpleNamespace(
            is_open=True, basic_ack=self._on_ack, connection=SimpleNamespace(together=nullcontext)
        )
        self.subscription._consumer_tag = "c"
        self.acks = 0
        self.lane.on_channel()
        self.lane.on_deliveries([Delivered("c", tag, False, b"", b"{}") for tag in range(1, events + 1)])
        self.under_way: list[Delivery] = self.lane.take(events)

    def finish_one(self) -> None:
        if self.under_way:
            self.lane.done([self.under_way.pop(0)])

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self.acks += 1
        self.finish_one()


def test_acknowledgements_that_wait_have_one_timer_however_handlers_finish() -> None:
    scene = Scene(events=20)
    scene.finish_one()
    timers = [scene.connection.turn_once() for _ in range(60) if scene.acks < 20]
    assert scene.acks == 20
    assert max(timers) == 1
    assert scene.connection.turn_once() == 0


def test_what_was_timed_on_a_connection_that_was_left_does_not_happen_there() -> None:
    scene = Scene(events=1)
    happened: list[str] = []
    scene.subscription.later(0, lambda: happened.append("before"))
    scene.connection.turn_once()
    scene.subscription.later(0, lambda: happened.append("after"))
    scene.subscription.leave()
    scene.connection.call_later(0, lambda: happened.append("of others"))
    scene.connection.turn_once()
    assert happened == ["before", "of others"]

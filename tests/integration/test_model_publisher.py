"""The publisher against a broker that does anything in any order: every answer is true, and none is forgotten.

The broker is played, a frame at a time, since no real one can be told to confirm the second event and die before the
first; with a real one the same engine runs in ``tests/integration/test_rabbit_publisher*.py``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pika
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from zerver.lib.errors import TransportUnavailable
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Fate, Published
from zerver.lib.transport.rabbitmq import engine as engine_module
from zerver.lib.transport.rabbitmq import flight, knowledge, line, topology
from zerver.lib.transport.rabbitmq.connection import State
from zerver.lib.transport.rabbitmq.engine import PublishEngine
from zerver.lib.transport.rabbitmq.flight import Batch, Finish
from zerver.lib.transport.rabbitmq.properties import to_properties
from zerver.lib.transport.rabbitmq.publishing import OnConfirm

QUEUES = ("parcels", "letters")
LIMIT_BYTES = 100
GOOD, LARGE, GUILTY = b'{"n":1}', b'{"n":"' + b"1" * LIMIT_BYTES + b'"}', b"over this one channels are closed"
TIMEOUT_SECONDS = 5.0

#: What a run must come to, in all its examples together, or it would be green and have tried nothing. A run comes to
#: several times as much.
AT_LEAST = {
    "acked alone, before an earlier one": 100,
    "acked, several at once": 40,
    "nacked alone, before an earlier one": 15,
    "nacked, several at once": 100,
    "given up after nacks": 50,
    "died before the first confirm": 60,
    "returned": 60,
    "closed over one, with others unconfirmed": 2,
    "called guilty": 20,
    "stored, as was heard late": 15,
    "answered STORED": 500,
    "answered REFUSED": 400,
    "answered UNKNOWN": 200,
}

Frame = tuple[str, Any]


class Channel:
    """The client's side; what it says lies in ``frames`` until the broker reads it."""

    def __init__(self, connection: Connection, on_open: Callable[[Channel], None]) -> None:
        self.connection = connection
        self.is_open = self.is_confirming = False
        self.frames: deque[Frame] = deque([("open", on_open)])
        self.on_close: list[Callable[[Channel, BaseException], None]] = []
        self.on_return: Callable[..., None] | None = None
        self.on_confirm: OnConfirm | None = None
        #: Read and stored by the broker, and not confirmed: tag to message.
        self.unconfirmed: dict[int, str] = {}
        self.next_tag = 1

    def add_on_close_callback(self, callback: Callable[[Channel, BaseException], None]) -> None:
        self.on_close.append(callback)

    def add_on_return_callback(self, callback: Callable[..., None]) -> None:
        self.on_return = callback

    def confirm(self, on_confirm: OnConfirm, callback: Callable[[Any], None]) -> None:
        self.on_confirm = on_confirm
        self.frames.append(("confirm", callback))

    def queue_declare(self, queue: str, *, callback: Callable[[Any], None], **_: Any) -> None:
        self.frames.append(("declare", (queue, callback)))

    def publish(self, event: Event) -> None:
        if not self.is_open:
            raise pika.exceptions.ChannelWrongStateError("closed")
        self.frames.append(("publish", (event.queue, event.body, to_properties(event))))

    def close(self) -> None:
        assert self.is_open, "pika raises for a channel that is closed or closing"
        self.is_open = False
        self.frames.clear()

    def closed_by_broker(self, code: int, text: str) -> None:
        self.is_open = False
        self.frames.clear()
        self.unconfirmed.clear()
        for callback in self.on_close:
            callback(self, pika.exceptions.ChannelClosedByBroker(code, text))


class Connection:
    """pika's, to a broker that reads when it likes."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self.is_open = True

    def channel(self, on_open_callback: Callable[[Channel], None]) -> Channel:
        self.channels.append(Channel(self, on_open_callback))
        return self.channels[-1]

    @contextmanager
    def together(self) -> Iterator[None]:
        yield


class Owner:
    """What the engine needs of its ``BrokerConnection``: a loop that the machine turns, and a state that it sets."""

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.problem: TransportUnavailable | None = None
        self.listener: Any = None
        self._soon: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def add_listener(self, listener: Any) -> None:
        self.listener = listener

    def is_frozen(self) -> bool:
        return False

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> object:
        timer = (PublisherMachine.now + seconds, callback)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Any) -> None:
        if timer in self._timers:
            self._timers.remove(timer)

    def turn(self) -> None:
        while self._soon:
            self._soon.popleft()()
        for timer in sorted(self._timers, key=lambda each: each[0]):
            if timer[0] <= PublisherMachine.now and timer in self._timers:
                self._timers.remove(timer)
                timer[1]()


@dataclass
class Call:
    """One publish call, as its caller sees it."""

    events: list[Event]
    batch: Batch
    answers: list[Published] = field(default_factory=list)


class PublisherMachine(RuleBasedStateMachine):
    now: ClassVar[float] = 0.0
    #: What has happened so far, in all examples.
    reached: ClassVar[Counter[str]] = Counter()

    @initialize()
    def begin(self) -> None:
        type(self).now = 1000.0
        self.owner = Owner()
        self.engine = PublishEngine(self.owner, lambda name: QueueDeclaration(name=name))  # type: ignore[arg-type]
        self.connection: Connection | None = None
        self.calls: list[Call] = []
        self.count = 0
        #: Message ids, as often as the broker has stored them.
        self.stored: list[str] = []
        #: Message ids that came back at least once.
        # From the midst of things: chance alone seldom comes as far.
        self.connect()
        for queue in QUEUES:
            self.publish(queue, [GOOD])
        self._obey()
        type(self).now += engine_module.YOUNG_SECONDS

    # -- the application

    @rule(
        queue=st.sampled_from([*QUEUES, QUEUES[0]]),
        bodies=st.lists(st.sampled_from([GOOD, GOOD, LARGE, GUILTY]), min_size=1, max_size=5),
    )
    def publish_with_guilty(self, queue: str, bodies: list[bytes]) -> None:
        self.publish(queue, bodies)

    @rule(queue=st.sampled_from(QUEUES), bodies=st.lists(st.just(GOOD), min_size=1, max_size=5))
    def publish(self, queue: str, bodies: list[bytes]) -> None:
        events = [
            Event(queue=queue, message_id=str(self.count + n), body=body, published_at_ms=1)
            for n, body in enumerate(bodies)
        ]
        self.count += len(events)

        def begin(asked: Any) -> Finish:
            call = Call(list(asked), Batch(asked))
            self.calls.append(call)
            self.engine.hand_over(call.batch)
            return lambda _: [Published(fate=Fate.UNKNOWN)] * len(asked)

        answers = self.engine.begun(events, TIMEOUT_SECONDS, begin)(self.now + TIMEOUT_SECONDS)
        asked = {id(event) for call in self.calls for event in call.events}
        told = [event for event in events if id(event) not in asked]
        if told:
            refusals = [
                answer for event, answer in zip(events, answers, strict=True) if id(event) not in asked
            ]
            self.calls.append(Call(told, Batch([]), refusals))
        self.owner.turn()

    @precondition(lambda self: any(not call.answers for call in self.calls))
    @rule(data=st.data())
    def conclude(self, data: st.DataObject) -> None:
        """All are answered, or the caller's time is up."""
        call = data.draw(st.sampled_from([call for call in self.calls if not call.answers]))
        self._conclude(call)
        self.owner.turn()

    def _conclude(self, call: Call) -> None:
        call.answers = self.engine.conclude(call.batch)
        for answer in call.answers:
            self.reached[f"answered {answer.fate.name}"] += 1
            self.reached["given up after nacks"] += "(nack)" in answer.problem
            self.reached["called guilty"] += answer.event_at_fault

    # -- the network

    @precondition(lambda self: self.connection is None)
    @rule()
    def connect(self) -> None:
        self.connection = Connection()
        self.owner.state, self.owner.problem = State.OPEN, None
        self.owner.listener.on_open(self.connection)

    @precondition(lambda self: self.connection is not None)
    @rule(forgets=st.booleans())
    def lose(self, forgets: bool) -> None:
        """Forgetful, the broker dies itself, before what it has not confirmed is safe."""
        if forgets:
            for channel in self._unconfirmed():
                self._forget(channel, list(channel.unconfirmed))
        self.connection = None
        self.owner.state = State.AWAY
        self.owner.problem = TransportUnavailable("RabbitMQ", "gone")
        self.owner.listener.on_away(self.owner.problem)

    @precondition(lambda self: self.owner.state is State.OPEN)
    @rule()
    def block(self) -> None:
        self.owner.state = State.BLOCKED
        self.owner.problem = TransportUnavailable("RabbitMQ", "in an alarm")
        self.owner.listener.on_blocked()

    @precondition(lambda self: self.owner.state is State.BLOCKED)
    @rule()
    def unblock(self) -> None:
        self.owner.state, self.owner.problem = State.OPEN, None
        self.owner.listener.on_unblocked()

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 40.0, 400.0]))
    def let_time_pass(self, seconds: float) -> None:
        type(self).now += seconds
        self.owner.turn()

    # -- the broker

    @precondition(lambda self: self._readable())
    @rule(data=st.data(), frames=st.integers(1, 6), takes=st.booleans())
    def read(self, data: st.DataObject, frames: int, takes: bool) -> None:
        """Some frames of one channel; where it does not take events, their queue has been deleted."""
        channel = data.draw(st.sampled_from(self._readable()))
        for _ in range(frames):
            if channel.frames:
                self._read(channel, *channel.frames.popleft(), takes=takes)

    @rule(queue=st.sampled_from(QUEUES), count=st.integers(1, 5))
    def delete_queue(self, queue: str, count: int) -> None:
        """What is sent to it comes back."""
        if self.connection is None:
            self.connect()
        self.publish(queue, [GOOD] * count)
        self._read_all(takes=False)

    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        channel = self._with_unconfirmed(data, 1)
        self._confirm(channel, self._drawn_tag(data, channel), data.draw(st.booleans()), is_ack=True)

    @rule(data=st.data())
    def nack(self, data: st.DataObject) -> None:
        channel = self._with_unconfirmed(data, 1)
        self._confirm(channel, self._drawn_tag(data, channel), data.draw(st.booleans()), is_ack=False)

    @rule(data=st.data(), is_ack=st.booleans())
    def confirm_when_nobody_waits(self, data: st.DataObject, is_ack: bool) -> None:
        channel = self._with_unconfirmed(data, 1)
        for call in [call for call in self.calls if not call.answers]:
            self._conclude(call)
        self._confirm(channel, self._drawn_tag(data, channel), data.draw(st.booleans()), is_ack=is_ack)
        self.owner.turn()

    @rule(data=st.data(), times=st.integers(1, 5))
    def nack_again_and_again(self, data: st.DataObject, times: int) -> None:
        """The queue is full, or without a leader for long: every event comes back, however often it is sent."""
        self._with_unconfirmed(data, 1)
        for _ in range(times):
            for channel in self._unconfirmed():
                self._confirm(channel, max(channel.unconfirmed), multiple=True, is_ack=False)
            type(self).now += max(line.NACK_RETRY_SECONDS)
            self.owner.turn()
            self._read_all()

    @rule(data=st.data())
    def confirm_a_later_one_and_die(self, data: st.DataObject) -> None:
        channel = self._with_unconfirmed(data, 2)
        self._confirm(
            channel, data.draw(st.sampled_from(sorted(channel.unconfirmed)[1:])), False, is_ack=True
        )
        self.reached["died before the first confirm"] += 1
        self.lose(forgets=True)

    @precondition(lambda self: self.connection is not None)
    @rule()
    def obey(self) -> None:
        """The broker reads and confirms all there is."""
        self._obey()

    def _obey(self) -> None:
        while self._readable() or self._unconfirmed():
            for channel in self._readable():
                self._read(channel, *channel.frames.popleft(), takes=True)
            for channel in self._unconfirmed():
                self._confirm(channel, max(channel.unconfirmed), multiple=True, is_ack=True)
            self.owner.turn()

    @precondition(lambda self: any(channel.is_confirming for channel in self._channels()))
    @rule(data=st.data())
    def withdraw_permission(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from([each for each in self._channels() if each.is_confirming]))
        channel.closed_by_broker(403, "ACCESS_REFUSED")

    def _with_unconfirmed(self, data: st.DataObject, count: int) -> Channel:
        """A channel on which so many await their confirms; where there is none, a fresh connection gets one."""
        channels = [channel for channel in self._unconfirmed() if len(channel.unconfirmed) >= count]
        if not channels:
            self._read_all()
            channels = [channel for channel in self._unconfirmed() if len(channel.unconfirmed) >= count]
        if not channels:
            if self.connection is not None:
                self.lose(forgets=data.draw(st.booleans()))
            self.connect()
            self.publish(data.draw(st.sampled_from(QUEUES)), [GOOD] * data.draw(st.integers(count, 5)))
            self._read_all()
            channels = self._unconfirmed()
        return data.draw(st.sampled_from(channels))

    def _drawn_tag(self, data: st.DataObject, channel: Channel) -> int:
        return data.draw(st.sampled_from(sorted(channel.unconfirmed)))

    def _channels(self) -> list[Channel]:
        return [] if self.connection is None else [each for each in self.connection.channels if each.is_open]

    def _readable(self) -> list[Channel]:
        return [] if self.connection is None else [each for each in self.connection.channels if each.frames]

    def _unconfirmed(self) -> list[Channel]:
        return [channel for channel in self._channels() if channel.unconfirmed]

    def _read_all(self, *, takes: bool = True) -> None:
        """And confirm nothing."""
        while self._readable():
            for channel in self._readable():
                self._read(channel, *channel.frames.popleft(), takes=takes)
            self.owner.turn()

    def _read(self, channel: Channel, kind: str, what: Any, *, takes: bool) -> None:
        if kind == "open":
            channel.is_open = True
            what(channel)
        elif kind == "confirm":
            channel.is_confirming = True
            what(None)
        elif kind == "declare":
            what[1](None)
        else:
            self._take(channel, *what, takes=takes)

    def _take(
        self, channel: Channel, queue: str, body: bytes, properties: pika.BasicProperties, *, takes: bool
    ) -> None:
        if body in (LARGE, GUILTY):
            self.reached["closed over one, with others unconfirmed"] += len(channel.unconfirmed) > 0
        if body == GUILTY:
            channel.closed_by_broker(406, "PRECONDITION_FAILED - no")
            return
        if body == LARGE:
            text = f"message size {len(LARGE)} is larger than configured max size {LIMIT_BYTES}"
            channel.closed_by_broker(406, text)
            return
        tag, channel.next_tag = channel.next_tag, channel.next_tag + 1
        if takes:
            assert properties.message_id is not None
            self.stored.append(properties.message_id)
            channel.unconfirmed[tag] = properties.message_id
        else:
            assert channel.on_return is not None
            returned = pika.spec.Basic.Return(312, "NO_ROUTE", "", queue)
            self.reached["returned"] += 1
            channel.on_return(channel, returned, properties, body)
            self._confirm_one(channel, tag, multiple=False, is_ack=True)

    def _confirm(self, channel: Channel, tag: int, multiple: bool, is_ack: bool) -> None:
        tags = [each for each in channel.unconfirmed if each == tag or (multiple and each < tag)]
        verb = "acked" if is_ack else "nacked"
        self.reached[f"{verb}, several at once"] += len(tags) > 1
        self.reached[f"{verb} alone, before an earlier one"] += not multiple and tag > min(
            channel.unconfirmed
        )
        if is_ack:
            for each in tags:
                del channel.unconfirmed[each]
        else:
            self._forget(channel, tags)
        self._confirm_one(channel, tag, multiple, is_ack)

    def _forget(self, channel: Channel, tags: list[int]) -> None:
        for each in tags:
            self.stored.remove(channel.unconfirmed.pop(each))

    def _confirm_one(self, channel: Channel, tag: int, multiple: bool, is_ack: bool) -> None:
        assert channel.on_confirm is not None
        channel.on_confirm(tag, multiple, is_ack)

    # -- what holds after every step

    @invariant()
    def answers_are_true(self) -> None:
        for call in getattr(self, "calls", []):
            for event, answer in zip(call.events, call.answers, strict=False):
                if answer.fate is Fate.STORED:
                    assert event.message_id in self.stored
                elif answer.fate is Fate.REFUSED:
                    assert event.message_id not in self.stored, "its caller has stored it elsewhere by now"
                elif answer.late is not None and answer.late.done() and answer.late.result():
                    assert event.message_id in self.stored

    @invariant()
    def only_the_guilty_are_called_guilty(self) -> None:
        for call in getattr(self, "calls", []):
            for event, answer in zip(call.events, call.answers, strict=False):
                assert not answer.event_at_fault or event.body in (LARGE, GUILTY)

    def teardown(self) -> None:
        """The broker does all it should, and every caller gets an answer; the connection goes, and no doubt is left."""
        if not hasattr(self, "owner"):
            return
        if self.owner.state is State.BLOCKED:
            self.unblock()
        if self.connection is None:
            self.connect()
        for _ in range(500):
            if all(call.answers or call.batch.is_done() for call in self.calls):
                break
            self._obey()
            type(self).now += 0.3
            self.owner.turn()
        for call in self.calls:
            if not call.answers:
                assert call.batch.is_done(), "nobody answers"
                self._conclude(call)
        self.answers_are_true()
        self.only_the_guilty_are_called_guilty()
        self.lose(forgets=True)
        for call in self.calls:
            for answer in call.answers:
                if answer.late is not None:
                    assert answer.late.done(), "in doubt for ever"
                    self.reached["stored, as was heard late"] += answer.late.result()
        self.answers_are_true()


@pytest.mark.timeout(300)
def test_the_publisher_tells_the_truth_whatever_the_broker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine_module, line, knowledge, topology, flight):
        monkeypatch.setattr(module, "monotonic", lambda: PublisherMachine.now)
    monkeypatch.setattr(line, "WINDOW_EVENTS", 3)
    PublisherMachine.reached.clear()
    missed: set[str] = set()
    for _ in range(6):  # by chance one run may try little of something
        run_state_machine_as_test(
            PublisherMachine,
            settings=settings(
                max_examples=200,
                stateful_step_count=40,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        missed = {what for what, count in AT_LEAST.items() if PublisherMachine.reached[what] < count}
        if not missed:
            break
    assert not missed

"""What a broker sends is understood as pika understands it, wherever reads of the socket cut it, in lists or not."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec
from pika.adapters.utils import io_services_utils

from zerver.lib import signals
from zerver.lib.transport.rabbitmq import in_lists
from zerver.lib.transport.rabbitmq.deliveries import Delivered
from zerver.lib.transport.rabbitmq.in_lists import READ_BYTES
from zerver.lib.transport.rabbitmq.ioloop import IOLoop
from zerver.lib.transport.rabbitmq.known_pika import changed_in_pika
from zerver.lib.transport.rabbitmq.wire import WireChannel, WireConnection

swift = settings(max_examples=12, derandomize=True, deadline=None)
OURS = BasicProperties(
    content_type="application/json",
    delivery_mode=2,
    message_id="m-1",
    timestamp=1_700_000_000,
    headers={"x-version": "1", "x-attempt": 1, "x-published-at-ms": 1_700_000_000_123},
)
#: None.
BARE = b"\x00\x00"
#: Properties that pika cannot decode: a time after the year 9999 among the headers.
UNDECODABLE = b"\x20\x00\x00\x00\x00\x0c\x02atT\x7f\x00\x00\x00\x00\x00\x00\x00"


class Told(WireConnection):
    """A connection that is open, as far as it knows, and notes for each of its channels what it is told.

    Its channels 1 and 2 have a consumer in lists, 3 has an ordinary one. What it reads comes from the test.
    """

    def __init__(self, loop: IOLoop) -> None:
        parameters = pika.ConnectionParameters()
        super().__init__(parameters, custom_ioloop=loop, internal_connection_workflow=False)
        self._corked = []  # keeps what it would send
        self._transport = SimpleNamespace()
        self._set_connection_state(self.CONNECTION_OPEN)
        self.told: dict[int, list[Any]] = {1: [], 2: [], 3: []}
        #: How many messages each list had.
        self.lengths: list[int] = []
        for number in self.told:
            channel = self.channel(number, on_open_callback=lambda _: None)
            self.come_to(frame.Method(number, spec.Channel.OpenOk()).marshal())
            if number == 3:
                tag = channel.basic_consume("parcels", lambda _, *message: self.note(3, *message))
            else:
                tag = channel.consume_in_lists("parcels", partial(self.on_list, number))
            self.come_to(frame.Method(number, spec.Basic.ConsumeOk(tag)).marshal())
        self.told = {1: [], 2: [], 3: []}

    def on_list(self, number: int, deliveries: list[Delivered]) -> None:
        self.lengths.append(len(deliveries))
        for each in deliveries:
            self.note(number, each, each.properties, each.body)

    def note(self, number: int, method: Any, properties: Any, body: bytes) -> None:
        if isinstance(properties, bytes):
            try:
                properties = BasicProperties().decode(properties)
            except Exception:
                properties = BasicProperties()  # as the connection drops them
        self.told[number].append((method.delivery_tag, method.redelivered, properties, body))

    def _process_frame(self, value: Any) -> None:
        if not isinstance(value, frame.Header | frame.Body) and "Deliver" not in str(value):
            for told in self.told.values():
                told.append(str(value))
        super()._process_frame(value)

    def come_to(self, *reads: bytes) -> str:
        """What it fails with, which would be its end; "" when it does not."""
        try:
            for read in reads:
                self._on_data_available(read)
        except Exception as error:
            return f"{type(error).__name__} {error}"
        return ""


@pytest.fixture(scope="module")
def loop() -> Iterator[IOLoop]:
    made = IOLoop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def make(loop: IOLoop) -> Callable[..., Told]:
    """Two that are alike are given the same consumer tags."""

    def made(*, is_in_lists: bool = True) -> Told:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WireChannel, "_generate_consumer_tag", lambda channel: f"c{channel.channel_number}")
            # To look once is enough, and to look is the most of what a connection costs.
            patch.setattr(in_lists, "changed_in_pika", lambda: [] if is_in_lists else ["all"])
            patch.setattr(in_lists, "_tell_once", lambda _: None)
            return Told(loop)

    return made


def raw(kind: int, number: int, payload: Sequence[bytes]) -> bytes:
    return struct.pack(">BHI", kind, number, sum(map(len, payload))) + b"".join(payload) + b"\xce"


def method(number: int, which: Any) -> bytes:
    return frame.Method(number, which).marshal()


def delivery(
    number: int,
    tag: int = 1,
    *,
    consumer: str = "",
    body: bytes = b"{}",
    piece: int = 1000,
    header: bytes = b"",
) -> list[bytes]:
    """The frames of one message."""
    which = spec.Basic.Deliver(consumer or f"c{number}", tag, tag % 3 == 0, "", "parcels")
    sent = header or b"".join(OURS.encode())
    content = raw(spec.FRAME_HEADER, number, [struct.pack(">HHQ", 60, 0, len(body)), sent])
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    return [method(number, which), content, *(frame.Body(number, each).marshal() for each in pieces)]


HEARTBEAT = frame.Heartbeat().marshal()
#: What may come before, after and between the frames of messages, rightly or not.
OTHERS = [
    HEARTBEAT,
    method(1, spec.Basic.Ack(1)),
    method(1, spec.Basic.CancelOk("c1")),
    method(2, spec.Basic.Cancel("c2")),
    method(2, spec.Channel.Close(406, "no", 0, 0)),
    method(3, spec.Channel.CloseOk()),
    method(1, spec.Basic.Deliver("c1", 9, False, "", "parcels")),
    delivery(1)[0][:-1] + b"\x00",  # whose end is none
    delivery(1)[1][:-1] + b"\x00",
    raw(spec.FRAME_METHOD, 1, [delivery(1)[0][7:-1], b"more"]),
    raw(spec.FRAME_METHOD, 1, [delivery(1)[0][7:20]]),
    raw(spec.FRAME_HEADER, 1, [struct.pack(">HHQ", 60, 0, 2)]),  # without even flags
    raw(spec.FRAME_HEADER, 1, [struct.pack(">HHQ", 60, 0, 0)[:-1]]) + frame.Body(1, bytes(0xCE)).marshal(),
    raw(spec.FRAME_HEADER, 1, [struct.pack(">HHQ", 61, 0, 2), *OURS.encode()]),
    frame.Header(1, 2, OURS).marshal(),
    frame.Header(1, 0, OURS).marshal(),
    frame.Header(2, 2, OURS).marshal(),
    frame.Body(1, b"").marshal(),
    frame.Body(1, b"{}").marshal(),
    frame.Body(1, b"{ }").marshal(),
    frame.Body(2, b"{}").marshal(),
    frame.Body(2, b"}").marshal(),
    raw(9, 1, []),
    frame.ProtocolHeader().marshal(),
    b"\x01",
]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Messages, most of them sound, and what else may come."""
    frames: list[bytes] = []
    for tag in range(1, draw(st.integers(1, 6)) + 1):
        size, piece = draw(st.sampled_from([(0, 9), (1, 9), (9, 9), (10, 9), (40, 9), (300, 999)]))
        of_it = delivery(
            draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4])),
            tag,
            consumer=draw(st.sampled_from(["", "", "", "c1", "unknown"])),
            body=bytes(size),
            piece=piece,
            header=draw(st.sampled_from([b"", BARE, UNDECODABLE])),
        )
        if draw(st.integers(0, 3)) == 0:
            at = draw(st.integers(0, len(of_it)))
            of_it[at : at + draw(st.integers(0, 1))] = [draw(st.sampled_from(OTHERS))]
        frames += of_it
    return b"".join(frames)


def is_alike(in_lists: Told, ordinary: Told, stream: bytes, cuts: Sequence[int]) -> None:
    edges = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    failed = in_lists.come_to(*(stream[start:end] for start, end in pairwise(edges)))
    assert failed == ordinary.come_to(stream)
    assert in_lists.told == ordinary.told
    if not failed:
        # What has only begun is left in the buffer, until it is known that it is not to be waited for.
        failed = in_lists.come_to(HEARTBEAT)
        assert failed == ordinary.come_to(HEARTBEAT)
        assert in_lists.told == ordinary.told
    if not failed:
        assert in_lists._frame_buffer == ordinary._frame_buffer
        assert in_lists.bytes_received == ordinary.bytes_received
        assert in_lists.frames_received == ordinary.frames_received


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_another_frame_at_any_place_of_a_message_means_what_it_means_to_pika(
    make: Callable[..., Told], number: int
) -> None:
    before, after = (b"".join(delivery(1, tag, header=BARE)) for tag in (1, 3))
    of_one_piece, of_two = (delivery(1, 2, header=BARE, piece=piece) for piece in (2, 1))
    put_in = [(of_one_piece, at, 0) for at in range(1, 4)] + [(of_two, 3, 0)]
    in_place_of = [(of_one_piece, at, 1) for at in range(3)] + [(of_two, 2, 1)]
    for frames, at, replaced in put_in + in_place_of:
        stream = before + b"".join([*frames[:at], OTHERS[number], *frames[at + replaced :]]) + after
        is_alike(make(), make(is_in_lists=False), stream, [])


def test_reads_may_end_at_every_byte(make: Callable[..., Told]) -> None:
    messages = [
        *delivery(1, 1),
        HEARTBEAT,
        *delivery(1, 2, body=b""),
        *delivery(2, 3, body=b"twice", piece=3, header=BARE),
        *delivery(3, 4, header=BARE),
        method(1, spec.Basic.Ack(1)),
        *delivery(1, 5, header=UNDECODABLE),
        *delivery(2, 6, header=BARE),
    ]
    stream = b"".join(messages)
    in_lists, ordinary = make(), make(is_in_lists=False)
    is_alike(in_lists, ordinary, stream, range(len(stream)))
    for cut in range(len(stream)):
        in_lists.told = {number: [] for number in in_lists.told}
        in_lists.come_to(stream[:cut], stream[cut:], HEARTBEAT)
        assert in_lists.told == ordinary.told


@given(
    stream=streams(),
    cuts=st.lists(st.integers(0, 4000), max_size=8),
    leaving=st.sampled_from(["", "cancelled", "closed"]),
)
@swift
def test_what_comes_is_told_as_pika_tells_it_or_fails_as_pika_fails(
    make: Callable[..., Told], stream: bytes, cuts: list[int], leaving: str
) -> None:
    both = make(), make(is_in_lists=False)
    for each in both:
        if leaving == "cancelled":
            each._channels[1].basic_cancel("c1")
        elif leaving == "closed":
            each._channels[1].close()
    is_alike(*both, stream, cuts)


def test_a_delivery_that_has_begun_is_waited_for_as_a_whole(make: Callable[..., Told]) -> None:
    connection = make()
    received = connection.bytes_received
    frames = delivery(1, body=b"body")
    connection.come_to(frames[0])
    rest = b"".join(frames[1:])
    for at in range(len(rest)):
        assert (connection._frame_buffer, connection.bytes_received) == (frames[0] + rest[:at], received)
        connection.come_to(rest[at : at + 1])
    assert connection.bytes_received == received + len(frames[0]) + len(rest)
    assert connection.lengths == [1]


@pytest.mark.parametrize("frames", [delivery(1)[:1], delivery(1)[:2], delivery(1, body=b"body", piece=1)[:3]])
def test_what_comes_in_the_middle_of_a_delivery_is_not_held_up_by_it(
    make: Callable[..., Told], frames: list[bytes]
) -> None:
    connection = make()
    connection.come_to(*frames, HEARTBEAT)
    assert connection.told[1] == [str(frame.Heartbeat())]
    assert connection._frame_buffer == b""


def test_a_body_in_many_frames_is_not_gathered_in_the_buffer(make: Callable[..., Told]) -> None:
    connection = make()
    longest = 0
    stream = b"".join(delivery(1, body=bytes(1 << 20), piece=131_064))
    for start in range(0, len(stream), READ_BYTES):
        connection.come_to(stream[start : start + READ_BYTES])
        longest = max(longest, len(connection._frame_buffer))
    assert [message[-1] for message in connection.told[1]] == [bytes(1 << 20)]
    assert longest < 131_072 + READ_BYTES


def test_a_read_makes_one_list_of_each_channel_and_a_frame_between_makes_two(
    make: Callable[..., Told],
) -> None:
    connection = make()
    some = [each for tag in range(4) for each in delivery(1, tag) + delivery(2, tag)]
    connection.come_to(b"".join([*some, HEARTBEAT, *some]))
    assert connection.lengths == [4, 4, 4, 4]
    assert [told for told in connection.told[1] if isinstance(told, str)] == [str(frame.Heartbeat())]


def test_bytes_whose_list_somebody_fails_at_are_not_read_again(make: Callable[..., Told]) -> None:
    connection = make()
    connection._channels[1]._on_deliveries = lambda _: 1 // 0
    assert "division" in connection.come_to(b"".join(delivery(1)))
    assert connection._frame_buffer == b""


def test_after_much_the_thread_rests_for_a_moment_and_after_little_it_does_not(
    make: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(in_lists.time, "sleep", rests.append)
    of_tls = make()
    monkeypatch.setattr(in_lists, "PlainTransport", SimpleNamespace)
    plain, ordinary = make(), make(is_in_lists=False)
    messages = [b"".join(delivery(1, tag)) for tag in range(1, 201)]
    for reader in (plain, of_tls, ordinary):
        reader.come_to(b"".join(messages[:99]), b"".join(messages[99:100]))
    assert not rests
    plain.come_to(b"".join(messages[100:]))
    assert rests == [in_lists.REST_SECONDS]
    assert len(plain.told[1]) == 200, "it rests with nothing left to be told"
    for other in (of_tls, ordinary):
        other.come_to(b"".join(messages[100:]))
    assert len(rests) == 1, "what is read in several reads a turn would rest after each"


def test_only_this_connection_reads_more_at_once(make: Callable[..., Told]) -> None:
    connection: Any = make()
    assert connection._transport._MAX_RECV_BYTES == READ_BYTES
    everybodys: Any = io_services_utils._AsyncTransportBase
    assert everybodys._MAX_RECV_BYTES < READ_BYTES


def test_a_pika_that_is_another_is_told_once_and_read_in_its_own_way(
    loop: IOLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trim(self: Any, byte_count: int, sooner: bool = True) -> None:
        self._frame_buffer = self._frame_buffer[byte_count:]

    problems: list[str] = []

    def hear(problem: str, **_: Any) -> None:
        problems.append(problem)

    assert changed_in_pika() == []
    signals.fast_lane_slowed.connect(hear)
    in_lists._tell_once.cache_clear()
    monkeypatch.setattr(pika.connection.Connection, "_trim_frame_buffer", trim)
    monkeypatch.setattr(WireChannel, "_generate_consumer_tag", lambda channel: f"c{channel.channel_number}")
    for _ in range(2):
        connection: Any = Told(loop)
        connection.come_to(b"".join(delivery(1) + delivery(1, body=b"") + delivery(2, header=UNDECODABLE)))
        assert connection.lengths == [1, 1, 1]
        assert not hasattr(connection._transport, "_MAX_RECV_BYTES")
    signals.fast_lane_slowed.disconnect(hear)
    (problem,) = problems
    assert problem.startswith(
        f"pika {pika.__version__} is not as it was known (Connection._trim_frame_buffer)"
    )

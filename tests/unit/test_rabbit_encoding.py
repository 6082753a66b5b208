"""An event as frames, for publishing: as pika would have sent it, or refused it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerver.lib.event import Event
from zerver.lib.transport.rabbitmq.encoding import encode_publish
from zerver.lib.transport.rabbitmq.ioloop import IOLoop
from zerver.lib.transport.rabbitmq.properties import to_properties
from zerver.lib.transport.rabbitmq.wire import WireChannel, WireConnection

CHANNEL = 7
#: The smallest that AMQP has.
FRAME_MAX = 4096

swift = settings(max_examples=40, derandomize=True, deadline=None)
_text = st.text(max_size=12) | st.sampled_from(["\ud800", "\u00e9" * 130, "x" * 256])
_names = _text | st.sampled_from(
    ["x-attempt", "x-published-at-ms", "x-version", "traceparent", "CC", "x-opt-a"]
)
events = st.builds(
    Event,
    queue=st.text(max_size=5) | st.just("q" * 300),
    message_id=_text,
    body=st.binary(max_size=60) | st.integers(4080, 9000).map(bytes),
    published_at_ms=st.integers(1_700_000_000_000, 1_800_000_000_000) | st.integers(-(2**65), 2**65),
    attempt=st.integers(1, 9) | st.integers(-(2**65), 2**65) | st.booleans(),
    headers=st.dictionaries(_names, _text | st.integers(0, 3) | st.none(), max_size=4),
)


@pytest.fixture(scope="module")
def channel() -> Iterator[Any]:
    """An open one of a connection that keeps what it would send."""
    loop = IOLoop()
    parameters = pika.ConnectionParameters(frame_max=FRAME_MAX)
    connection: Any = WireConnection(parameters, custom_ioloop=loop, internal_connection_workflow=False)
    connection._body_max_length = connection._get_body_frame_max_length()
    made: Any = WireChannel(connection, CHANNEL, None)
    made._set_state(made.OPEN)
    yield made
    loop.close()


def sent_by_pika(channel: Any, event: Event) -> bytes:
    channel.connection._corked = []
    channel.basic_publish("", event.queue, event.body, to_properties(event), mandatory=True)
    return b"".join(channel.connection._corked)


@given(event=events)
@swift
def test_an_event_is_sent_as_pika_sends_it_or_refused_as_pika_refuses_it(channel: Any, event: Event) -> None:
    try:
        expected = sent_by_pika(channel, event)
    except Exception as error:
        with pytest.raises(type(error)):
            encode_publish(CHANNEL, event.queue, event, FRAME_MAX)
    else:
        assert encode_publish(CHANNEL, event.queue, event, FRAME_MAX) == expected


@pytest.mark.parametrize("size_bytes", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 2 * (FRAME_MAX - 8)])
def test_a_body_is_cut_where_pika_cuts_it(channel: Any, size_bytes: int) -> None:
    event = Event(queue="parcels", message_id="m", body=b"b" * size_bytes, published_at_ms=1_700_000_000_000)
    assert encode_publish(CHANNEL, "parcels", event, FRAME_MAX) == sent_by_pika(channel, event)

"""What is private to pika and used all the same: an upgrade that changes it fails here, and not in production."""

from __future__ import annotations

import inspect
import socket
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from pika.adapters.utils import io_services_utils
from pika.channel import Channel

from zerver.lib.transport.rabbitmq.ioloop import IOLoop
from zerver.lib.transport.rabbitmq.wire import WireChannel, WireConnection


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (pika.SelectConnection, "_terminate_stream", ["self", "error"]),
        (pika.SelectConnection, "_adapter_emit_data", ["self", "data"]),
        (pika.SelectConnection, "_read_frame", ["self"]),
        (pika.SelectConnection, "_create_channel", ["self", "channel_number", "on_open_callback"]),
        (Channel, "__init__", ["self", "connection", "channel_number", "on_open_callback"]),
        (Channel, "_on_deliver", ["self", "method_frame", "header_frame", "body"]),
    ],
)
def test_the_methods_that_are_called_or_overridden_are_there(
    owner: type, name: str, parameters: list[str]
) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_a_connection_has_a_buffer_of_bytes_and_a_transport_that_can_be_aborted_and_left() -> None:
    loop = IOLoop()
    ours, theirs = socket.socketpair()
    try:
        connection: Any = WireConnection(pika.ConnectionParameters("127.0.0.1", 1), custom_ioloop=loop)
        assert connection._frame_buffer == b""
        assert connection._transport is None
        transport: Any = io_services_utils._AsyncPlaintextTransport(ours, connection, connection._nbio)
        assert transport._sock is ours
        transport.abort()
        encrypted = io_services_utils._AsyncSSLTransport
        assert issubclass(encrypted, io_services_utils._AsyncTransportBase)
        connection._terminate_stream(pika.exceptions.AMQPConnectionError("enough"))
    finally:
        ours.close()
        theirs.close()
        loop.close()


def test_frames_are_read_and_sent_where_they_are_mended() -> None:
    """The bodies that call what is overridden."""
    assert "self._read_frame()" in inspect.getsource(pika.SelectConnection._on_data_available)
    assert "self._frame_buffer" in inspect.getsource(pika.SelectConnection._read_frame)
    assert "self._adapter_emit_data(" in inspect.getsource(pika.SelectConnection._output_marshaled_frames)
    assert "self._create_channel(" in inspect.getsource(pika.SelectConnection.channel)
    assert "self._on_deliver(" in inspect.getsource(Channel._handle_content_frame)


def channel() -> Any:
    """An open one that notes what it would send."""
    made: Any = WireChannel(SimpleNamespace(callbacks=pika.callback.CallbackManager()), 1, None)
    made._set_state(made.OPEN)
    made.sent = []
    made._send_method = made.sent.append
    return made


def delivery(consumer_tag: str) -> tuple[Any, Any, bytes]:
    method = pika.spec.Basic.Deliver(consumer_tag, 7, False, "", "parcels")
    return pika.frame.Method(1, method), pika.frame.Header(1, 2, pika.BasicProperties()), b"{}"


def test_what_comes_while_a_consumer_is_being_cancelled_arrives() -> None:
    received: list[int] = []
    made = channel()
    made._consumers["tag"] = lambda _, method, __, ___: received.append(method.delivery_tag)
    made._cancelled.add("tag")
    made._on_deliver(*delivery("tag"))
    assert (received, made.sent) == ([7], [])


def test_what_comes_on_a_channel_that_is_closing_or_for_nobody_arrives_nowhere() -> None:
    made = channel()
    made._on_deliver(*delivery("nobody"))
    made._consumers["tag"] = lambda *_: pytest.fail("it was told")
    made._cancelled.add("tag")
    made._set_state(made.CLOSING)
    made._on_deliver(*delivery("tag"))
    assert made.sent == []

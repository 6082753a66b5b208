"""What queues are declared with, and what the broker's refusals mean."""

from __future__ import annotations

import struct

import pika
import pytest
from pika import frame, spec

from zerver.lib.errors import AuthenticationRefused, QueueMismatch, TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.failures import describe, is_refusal
from zerver.lib.transport.rabbitmq.topology import arguments, declaration_error, difference
from zerver.lib.transport.rabbitmq.wire import salvage_header


def test_a_quorum_queue_never_drops_by_itself() -> None:
    assert arguments(QueueDeclaration(name="parcels")) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "zerver_dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_a_classic_queue_dead_letters_too() -> None:
    assert arguments(QueueDeclaration(name="parcels", queue_type="classic")) == {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "zerver_dead",
    }


def test_the_dead_queue_does_not_dead_letter_to_itself() -> None:
    assert arguments(QueueDeclaration(name="zerver_dead")) == {
        "x-queue-type": "quorum", "x-delivery-limit": 1_000_000
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': "
            "received the value 'quorum' of type 'longstr' but current is the value 'classic' of type 'longstr'",
            "x-queue-type: broker has classic, code declares quorum",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost '/': "
            "received the value 'reject-publish' of type 'longstr' but current is none",
            "x-queue-type: broker has classic, code declares quorum; "
            "x-overflow: broker has none, code declares reject-publish",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-strategy' for queue 'q' in vhost '/': "
            "received none but current is the value 'at-least-once' of type 'longstr'",
            "x-queue-type: broker has quorum, code declares classic; "
            "x-dead-letter-strategy: broker has at-least-once, code declares none",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': "
            "received the value '1000000' of type 'signedint' but current is none",
            "x-delivery-limit: broker has none, code declares 1000000",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': "
            "received 'true' but current is 'false'",
            "durable: broker has false, code declares true",
        ),
        ("PRECONDITION_FAILED - invalid arg 'x-max-priority'", "invalid arg 'x-max-priority'"),
    ],
)
def test_a_refusal_says_what_differs(reply: str, told: str) -> None:
    assert difference(reply) == told


def test_refusals_are_errors_of_ours() -> None:
    closed = pika.exceptions.ChannelClosedByBroker
    assert isinstance(declaration_error("q", closed(406, "PRECONDITION_FAILED - x")), QueueMismatch)
    assert isinstance(declaration_error("q", closed(405, "RESOURCE_LOCKED - x")), QueueMismatch)
    forbidden = declaration_error("q", closed(403, "ACCESS_REFUSED - y"))
    assert isinstance(forbidden, TransportUnavailable)
    assert "403 ACCESS_REFUSED - y" in str(forbidden)


def test_nested_failures_are_told_by_their_innermost_reasons() -> None:
    lost = pika.exceptions.ProbableAuthenticationError(
        "ConnectionClosedByBroker: (403) 'ACCESS_REFUSED - Login was refused'"
    )
    wrapped = pika.exceptions.AMQPConnectionError(pika.exceptions.AMQPConnectionError(lost))
    assert describe(wrapped) == "403 ACCESS_REFUSED - Login was refused"
    assert is_refusal(wrapped)
    assert not is_refusal(pika.exceptions.AMQPConnectionError(OSError("Connection refused")))
    assert is_refusal(pika.exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost x not found"))
    assert is_refusal(AuthenticationRefused("RabbitMQ", "no password"))
    assert describe(TimeoutError()) == "TimeoutError"


def test_a_header_frame_is_salvaged_without_its_properties() -> None:
    properties = spec.BasicProperties(headers={"a": 1})
    marshaled = frame.Header(3, 42, properties).marshal()
    broken = marshaled.replace(b"\x01al" if b"\x01al" in marshaled else b"\x01aI", b"\x01a?")
    salvaged = salvage_header(broken + b"more")
    assert salvaged is not None
    consumed, header = salvaged
    assert consumed == len(broken)
    assert (header.channel_number, header.body_size) == (3, 42)
    assert header.properties.headers is None


def test_nothing_else_is_salvaged() -> None:
    assert salvage_header(b"") is None
    assert salvage_header(struct.pack(">BHL", spec.FRAME_BODY, 1, 2) + b"xx\xce") is None
    assert salvage_header(frame.Header(1, 1, spec.BasicProperties()).marshal()[:-1]) is None

"""The broker's patience, and what it says when it ends."""

from __future__ import annotations

import pika.exceptions
import pytest

from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.patience import advice, ran_out, smallest_prefetch

#: RabbitMQ 3.10.8.
TIMED_OUT = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 4000 ms. This timeout "
    "value can be configured, see consumers doc guide to learn more"
)


def test_the_timeout_is_read_from_what_the_broker_says() -> None:
    assert ran_out(pika.exceptions.ChannelClosedByBroker(406, TIMED_OUT)) == 4.0
    assert (
        ran_out(pika.exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED - unknown delivery tag 3"))
        is None
    )
    assert ran_out(pika.exceptions.ChannelClosedByBroker(404, TIMED_OUT)) is None
    assert ran_out(OSError(TIMED_OUT)) is None


def test_the_mend_fits_the_declaration() -> None:
    assert "timeout_seconds=30 is over half of that; lower" in advice(QueueDeclaration(name="parcels"), 4.0)
    assert "look for what held it" in advice(QueueDeclaration(name="parcels"), 1800.0)


@pytest.mark.parametrize(
    ("queue", "smallest"),
    [
        (QueueDeclaration(name="a"), 1),
        (QueueDeclaration(name="a", threads=4), 4),
        (QueueDeclaration(name="a", threads=4, prefetch=2), 2),
        (QueueDeclaration(name="a", is_async=True, concurrency=40, prefetch=2), 40),
        (QueueDeclaration(name="a", is_batch=True, batch_size=50), 50),
        (QueueDeclaration(name="a", is_batch=True, batch_size=200), 200),
    ],
)
def test_threads_have_work_and_batches_can_fill(queue: QueueDeclaration, smallest: int) -> None:
    assert smallest_prefetch(queue) == smallest

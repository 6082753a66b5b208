"""Dramatiq's broker, actor and publishing."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from tests.bench.apps.publisher import Event, OneByOne
from tests.bench.ledger import Handler


class Broker(RabbitmqBroker):  # type: ignore[misc] # its package has no types here
    """It knows no queue types by itself."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        kind = {"x-queue-type": os.environ["BENCH_QUEUE_TYPE"]}
        return {**super()._build_queue_arguments(queue_name), **kind}


dramatiq.set_broker(
    Broker(url=os.environ["BENCH_BROKER_URL"], confirm_delivery="BENCH_UNCONFIRMED" not in os.environ)
)
_handler = Handler()


@dramatiq.actor(queue_name="bench")
def handle(event: dict[str, Any]) -> None:
    _handler(event)


# An actor has one queue; nobody publishes to these.
for _number in range(int(os.environ["BENCH_QUEUES"]) if os.environ["BENCH_QUEUES"] != "1" else 0):
    dramatiq.actor(handle.fn, actor_name=f"handle_{_number}", queue_name=f"bench_{_number}")


class Publisher(OneByOne):
    def publish(self, event: Event) -> None:
        handle.send(event)

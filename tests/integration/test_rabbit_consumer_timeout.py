"""How long the broker leaves events in a worker's hands: asked before anything is begun, and kept to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from signal import SIGTERM
from time import monotonic

import pika
import pytest

from tests.integration.conftest import Spine, on_rabbitmq
from tests.integration.rabbit import (
    Consumer,
    declaration,
    open_transport,
    publish,
    skip_before_4_3,
    skip_from_4_3,
    told_changes,
    wait_for_depth,
)
from tests.servers.ports import free_port, release_port
from tests.servers.rabbitmq import RabbitServer
from tests.servers.renamed import Renamed
from tests.unit.test_rabbit_greeting import GREETINGS
from tests.wait import wait_for
from zerver.lib.errors import ConsumerTimeoutTooShort
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.rabbitmq.greeting import Greeting
from zerver.lib.transport.rabbitmq.topology import arguments
from zerver.lib.transport.survey import version_numbers
from zerver.models import WorkerProcess

#: Of the impatient broker. Units: seconds.
TIMEOUT = 8.0


@pytest.fixture
def impatient(impatient_rabbit_server: RabbitServer) -> Iterator[str]:
    """A QUEUE_URL: a fresh vhost of a broker that takes events away soon."""
    with impatient_rabbit_server.vhost() as name:
        yield impatient_rabbit_server.url(name)


@pytest.fixture
def renamed(rabbit_server: RabbitServer) -> Iterator[Renamed]:
    """A broker of the first version that heeds timeouts of queues, and tells them."""
    with Renamed(rabbit_server.port, rabbit_server.version, "3.12.8") as proxy:
        yield proxy


def declare_with_timeout(url: str, name: str, seconds: float) -> None:
    told = arguments(declaration(name)) | {"x-consumer-timeout": int(seconds * 1000)}
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as other:
        other.channel().queue_declare(name, durable=True, arguments=told)


def ids(deliveries: list[Delivery]) -> set[str]:
    return {delivery.event.message_id for delivery in deliveries}


def test_the_broker_greets_as_recorded(rabbit_server: RabbitServer, rabbit_vhost: str) -> None:
    with closing(pika.BlockingConnection(pika.URLParameters(rabbit_vhost))) as other:
        greeting = Greeting.of(other._impl.server_properties)
    assert greeting.version == rabbit_server.version
    assert greeting == GREETINGS.get(greeting.version, greeting)


def test_what_is_taken_and_not_begun_goes_to_a_worker_that_has_time(impatient: str) -> None:
    with open_transport(impatient) as transport, open_transport(impatient) as elsewhere:
        publish(transport, 3)
        busy = Consumer(transport, consumer_timeout_seconds=TIMEOUT)
        begun, second, third = busy.take(3)
        assert busy.lane.renew(begun, 1)
        idle = Consumer(elsewhere, consumer_timeout_seconds=TIMEOUT)
        with told_changes() as told:
            assert ids(idle.take(2)) == ids([second, third])
            assert not busy.lane.renew(second, 1)
            busy.lane.done([begun, second, third])  # void but for the first
        assert not any(change["problem"] for change in told)
        busy.close()
        idle.close()
        wait_for_depth(transport, ready=2)


def test_what_nobody_begins_goes_round_and_no_channel_is_closed_over_it(impatient: str) -> None:
    with open_transport(impatient) as transport:
        publish(transport, 1)
        consumer = Consumer(transport, consumer_timeout_seconds=TIMEOUT)
        handed_back = consumer.note_surplus()
        with told_changes() as told:
            # A quarter of the timeout each.
            rounds = [consumer.take(1) for _ in range(6)]
        assert not any(change["problem"] for change in told)
        assert rounds[-1][0].received_at - rounds[0][0].received_at > TIMEOUT
        assert len(handed_back) == 5, "each time it was said before, so that it is no suspect for that"
        assert consumer.lane.renew(rounds[-1][0], 1)
        consumer.lane.done(rounds[-1])
        consumer.close()
        wait_for_depth(transport, ready=0)


@on_rabbitmq
def test_a_worker_whose_handlers_may_take_over_half_of_the_timeout_is_refused(
    spine: Spine, rabbit_server: RabbitServer, renamed: Renamed
) -> None:
    skip_from_4_3(rabbit_server, "the argument is one to be compared with the declaration's")
    env = {
        **spine.env,
        "QUEUE_URL": renamed.through(spine.env["QUEUE_URL"]),
        "QUEUE_MANAGEMENT_URL": rabbit_server.management_url,
        "QUEUE_OVERRIDES": '{"ledger": {"timeout_seconds": 31}, "ledger_other": {"timeout_seconds": 30}}',
    }
    for name in ("ledger", "ledger_other"):
        declare_with_timeout(spine.env["QUEUE_URL"], name, 60)
    refused = spine.start("process_queue", "--queue=ledger", env=env)
    assert refused.wait() == 1
    assert "takes events away after 60 s" in refused.output
    assert "timeout_seconds=31 is over half of that" in refused.output
    # It leaves the others alone, and the process says at its end that it was not run.
    spine.publish("ledger_other", n=1)
    both = spine.start("process_queue", "--multi_threaded", "ledger", "ledger_other", env=env)
    spine.wait_for_numbers([1])
    [word] = WorkerProcess.objects.filter(queue="ledger", pid=both.pid)
    assert word.state == "stopped"
    assert word.breaker.startswith("cannot start: queue 'ledger': the broker takes events away after 60 s")
    both.signal(SIGTERM)
    assert both.wait() == 1
    assert both.output.count("timeout_seconds=31 is over half of that") == 2


def test_the_timeout_of_the_whole_broker_is_found_out_though_nobody_consumes(
    impatient: str, impatient_rabbit_server: RabbitServer
) -> None:
    skip_from_4_3(impatient_rabbit_server, "it leaves that to us")
    if version_numbers(impatient_rabbit_server.version) < (3, 12):
        pytest.skip(f"the broker here is {impatient_rabbit_server.version}: it does not tell")
    with open_transport(impatient, impatient_rabbit_server.management_url) as transport:
        with pytest.raises(ConsumerTimeoutTooShort, match="after 8 s"):
            transport.check_queue(declaration(timeout_seconds=4.1))
        fits = declaration("letters", timeout_seconds=4.0)
        transport.check_queue(fits)
        lane = transport.open_lane(fits, "test")
        assert lane._subscription.consumer_timeout_seconds == TIMEOUT


def test_where_the_broker_does_not_tell_workers_start(impatient: str) -> None:
    """It is learnt when it runs out: see ``test_rabbit_lane_trouble``."""
    with open_transport(impatient) as transport:
        transport.check_queue(declaration(timeout_seconds=30.0))


def test_a_management_api_that_is_away_keeps_no_worker_from_starting(
    rabbit_vhost: str, renamed: Renamed
) -> None:
    port = free_port()
    with open_transport(renamed.through(rabbit_vhost), f"http://guest:guest@127.0.0.1:{port}") as transport:
        transport.check_queue(declaration(timeout_seconds=900.0))
    release_port(port)


def test_where_a_consumer_may_choose_it_has_the_usual_time_whatever_the_broker_was_told(
    impatient: str, impatient_rabbit_server: RabbitServer
) -> None:
    skip_before_4_3(impatient_rabbit_server, "it leaves that to nobody")
    with open_transport(impatient) as transport:
        publish(transport, 1)
        consumer = Consumer(transport)
        (held,) = consumer.take(1)
        wait_for(lambda: monotonic() - held.received_at > TIMEOUT + 4, 30, "the broker's own to run out")
        assert consumer.lane.renew(held, 1)
        consumer.lane.done([held])
        consumer.close()
        wait_for_depth(transport, ready=0)


def test_a_consumer_that_is_cancelled_over_what_it_holds_begins_anew(
    impatient: str, impatient_rabbit_server: RabbitServer
) -> None:
    skip_before_4_3(impatient_rabbit_server, "it closes the channel instead")
    with open_transport(impatient) as transport:
        publish(transport, 1)
        consumer = Consumer(transport, consumer_timeout_seconds=2.0)
        (held,) = consumer.take(1)
        assert consumer.lane.renew(held, 30), "it is begun, and does not come to an end"
        with told_changes() as told:
            (again,) = consumer.take(1)
        assert again.event == held.event
        assert again.redelivered
        assert any("cancelled the consumer" in change["problem"] for change in told)
        assert not consumer.lane.renew(held, 1)
        consumer.lane.done([held])
        consumer.lane.done([again])
        consumer.close()
        wait_for_depth(transport, ready=0)

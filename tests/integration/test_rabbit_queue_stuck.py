"""One queue that stands still, on a broker that goes on: nobody else waits for it, and nothing of it is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest

from tests.integration.rabbit import (
    AMPLE_SECONDS,
    Consumer,
    declaration,
    event,
    fates,
    is_back,
    open_transport,
    publish,
    waiting_for_nothing,
)
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import signals
from zerver.lib.transport.base import Fate
from zerver.lib.transport.rabbitmq import RabbitTransport, connection, engine, line

STORED, REFUSED, UNKNOWN = Fate.STORED, Fate.REFUSED, Fate.UNKNOWN


def standing_still(server: RabbitServer, url: str, queue: str = "parcels") -> AbstractContextManager[None]:
    """One quorum queue's leader hangs; the broker and all other queues go on."""
    return evaluated(server, "sys:suspend({})", "sys:resume({})", _process(url, queue))


def gone(server: RabbitServer, url: str, queue: str = "parcels") -> AbstractContextManager[None]:
    """One quorum queue has lost its process, as after a crash of the broker that its data did not outlive whole."""
    member = f"quorum_queues, {{{_process(url, queue)}, node()}}"
    return evaluated(server, "ra:stop_server({})", "ra:restart_server({})", member)


@contextmanager
def evaluated(server: RabbitServer, before: str, after: str, of: str) -> Iterator[None]:
    """On the broker's own node, and what undoes it."""
    server.evaluate(before.format(of))
    try:
        yield
    finally:
        server.evaluate(after.format(of))


def _process(url: str, queue: str) -> str:
    return f"'{url.rpartition('/')[2]}_{queue}'"


def stored_everywhere_else(transport: RabbitTransport, count: int = 200) -> None:
    letters = [event(queue="letters") for _ in range(count)]
    assert fates(transport.publish(letters, AMPLE_SECONDS)) == [STORED] * count


@pytest.mark.parametrize("size_bytes", [10, 100_000], ids=["many", "large"])
def test_a_queue_that_comes_to_a_halt_holds_up_no_other(
    rabbit_server: RabbitServer, rabbit_vhost: str, size_bytes: int
) -> None:
    with open_transport(rabbit_vhost) as transport:
        # Both in full use: the broker's limits for a channel are different after its first events.
        for _ in range(3):
            both = [event(queue=name) for name in ("parcels", "letters") for _ in range(500)]
            assert fates(transport.publish(both, AMPLE_SECONDS)) == [STORED] * 1_000
        parcels = transport._publisher.of_process().engine().lines["parcels"]
        with standing_still(rabbit_server, rabbit_vhost):
            events = [event(body=b"x" * size_bytes) for _ in range(1_000)]
            with ThreadPoolExecutor(1) as pool:
                stuck = pool.submit(transport.publish, events, 3)
                wait_for(lambda: parcels.is_in_flight, message="the first to be sent")
                for _ in range(5):
                    stored_everywhere_else(transport)
                answers = stuck.result()
            unknown = [answer for answer in answers if answer.fate is UNKNOWN]
            assert 0 < len(unknown) <= line.WINDOW_EVENTS
            assert len(answers) - len(unknown) == fates(answers).count(REFUSED)
            wait_for(lambda: not parcels._waiting, message="what nobody waits for to be let go")
            # Now that it is known, nobody waits and nobody is sent there.
            with waiting_for_nothing():
                assert fates(transport.publish([event()], AMPLE_SECONDS)) == [REFUSED]
        assert all(answer.late and answer.late.result(AMPLE_SECONDS) for answer in unknown)
        wait_for(is_back(transport), 20, "publishing to work again")


def test_a_queue_that_stands_still_from_the_start_holds_up_no_other(
    rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    """The first event that a channel brings there makes the broker's side of that channel wait for a minute."""
    with open_transport(rabbit_vhost) as before:
        assert fates(before.publish([event(), event(queue="letters")], AMPLE_SECONDS)) == [STORED] * 2
    with open_transport(rabbit_vhost) as transport, standing_still(rabbit_server, rabbit_vhost):
        both = [event(), *(event(queue="letters") for _ in range(200))]
        assert fates(transport.publish(both, 5)) == [UNKNOWN, *[STORED] * 200]
        stored_everywhere_else(transport)


def test_several_queues_that_stand_still_hold_up_no_other(
    rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    names = ["parcels", "pallets", "packets"]
    with open_transport(rabbit_vhost) as transport, ExitStack() as halted:
        events = [event(queue=name) for name in [*names, "letters"]]
        assert fates(transport.publish(events, AMPLE_SECONDS)) == [STORED] * 4
        for name in names:
            halted.enter_context(standing_still(rabbit_server, rabbit_vhost, name))
        answers = transport.publish([event(queue=name) for name in names for _ in range(500)], 3)
        assert STORED not in fates(answers)
        stored_everywhere_else(transport)
        halted.close()
        for name in names:
            wait_for(is_back(transport, name), 20, f"{name} to be published to again")


def test_a_queue_whose_events_were_never_sent_is_not_waited_for_again(
    rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "WINDOW_EVENTS", 0)
    with open_transport(rabbit_vhost) as transport:
        transport.check_queue(declaration())
        wait_for(
            lambda: "stopped confirming" in transport.publish([event()], 0.5)[0].problem,
            message="it to be known",
        )


def test_the_search_for_a_guilty_message_does_not_wait_for_a_queue_that_stands_still(
    rabbit_server: RabbitServer, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "_TOO_LARGE", re.compile("never said"))
    with rabbit_server.setting("max_message_size", 100_000), open_transport(rabbit_vhost) as transport:
        assert fates(transport.publish([event(), event(queue="letters")], AMPLE_SECONDS)) == [STORED] * 2
        with standing_still(rabbit_server, rabbit_vhost):
            events = [event(n % 7, "letters") for n in range(20)] + [event(n) for n in range(20)]
            events[7] = event(queue="letters", body=b"x" * 100_001)
            answers = transport.publish(events, 5)
            assert fates(answers[:20]) == [*[STORED] * 7, REFUSED, *[STORED] * 12]
            assert answers[7].event_at_fault
            assert fates(answers[20:]) == [UNKNOWN] * 20


def test_a_channel_that_is_not_used_is_closed_and_opened_again_when_it_is(
    rabbit_server: RabbitServer, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(line, "IDLE_SECONDS", 0.2)
    with open_transport(rabbit_vhost) as transport:
        assert fates(transport.publish([event(), event(queue="letters")], AMPLE_SECONDS)) == [STORED] * 2
        lines = transport._publisher.of_process().engine().lines
        wait_for(lambda: not lines, message="both lines to be closed")
        vhost = rabbit_vhost.rpartition("/")[2]
        wait_for(
            lambda: rabbit_server.api("GET", f"/vhosts/{vhost}/channels") == [],
            20,
            "no channels on the broker",
        )
        stored_everywhere_else(transport)


@pytest.mark.parametrize("how", ["close", "pause"])
def test_to_drain_or_pause_a_queue_whose_process_is_gone_takes_nothing_out_of_others_hands(
    rabbit_server: RabbitServer, rabbit_vhost: str, how: str
) -> None:
    with open_transport(rabbit_vhost) as transport, ExitStack() as closing:
        both = [event(1), event(1, "letters")]
        assert fates(transport.publish(both, AMPLE_SECONDS)) == [STORED] * 2
        parcels, letters = (Consumer(transport, declaration(name)) for name in ("parcels", "letters"))
        closing.callback(letters.close)
        [held] = letters.take(1)
        parcels.take(1)
        with gone(rabbit_server, rabbit_vhost):
            if how == "close":
                parcels.close()
            else:
                closing.callback(parcels.close)
                parcels.lane.pause()
            publish(transport, 1, queue="letters")
            [after] = letters.take(1)
            if how == "close":
                assert letters.lane.renew(held, 10), "the connection was closed under it"
                assert not after.redelivered


def test_a_queue_whose_process_is_gone_breaks_the_connection_of_others_once_and_comes_back(
    rabbit_server: RabbitServer, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks to consume from it loses the connection (3.10): from then on that is its own."""
    monkeypatch.setattr(connection, "LONGEST_RETRY_SECONDS", 0.5)
    told: list[tuple[str, str]] = []

    def hear(*, role: str, state: str, **_: Any) -> None:
        told.append((role, state))

    signals.connection_changed.connect(hear)
    with open_transport(rabbit_vhost) as transport, ExitStack() as closing:
        both = [event(1), event(1, "letters")]
        assert fates(transport.publish(both, AMPLE_SECONDS)) == [STORED] * 2
        with gone(rabbit_server, rabbit_vhost):
            parcels, letters = (Consumer(transport, declaration(name)) for name in ("parcels", "letters"))
            for consumer in (parcels, letters):
                closing.callback(consumer.close)
            wait_for(lambda: parcels.lane.problem, 20, "the parcels to fail")
            assert letters.bodies(1) == [both[1].body]
            before = told.count(("worker", "away"))
            assert before <= 2
            for number in range(10):
                publish(transport, 1, queue="letters", body=b"%d" % number)
                assert letters.bodies(1) == [b"%d" % number]
            assert told.count(("worker", "away")) == before
            assert parcels.lane.take(1) == []
        assert parcels.bodies(1) == [both[0].body]
        publish(transport, 1)
        parcels.take(1)
        assert told.count(("worker", "away")) == before
    signals.connection_changed.disconnect(hear)

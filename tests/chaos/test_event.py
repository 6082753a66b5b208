"""Events that kill, hang and stun whoever handles them, and bodies that are none, among a load of good ones.

Each bad event ends as one failed event with its body, every good one has its effect, and the queue goes on. What comes
twice, at most: for every process that a bad event ends, the acknowledgements on their way (the ack window).

The quick form has all kinds in one load; the long form one of each kind, with nothing turned down.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pika
import pytest

from tests.chaos.conftest import is_long
from tests.chaos.stage import ACK_WINDOW, SETTLE_SECONDS, Stage
from tests.ledger.apps import MEMORY_LIMIT
from zerver.lib import clock
from zerver.lib.errors import EventTooLarge
from zerver.lib.event import Event
from zerver.lib.queue import queue_json_publish
from zerver.lib.transport import current
from zerver.models import FailedEvent

LARGE_BYTES = 10 << 20
#: Of address space, of which a worker process takes half.
MEMORY_MB = 2_000
#: 3: ``os._exit(3)``. 70: a handler that nothing could stop. 1: one that held the interpreter's lock.
EXIT_CODES = (0, 3, 70, 1, -signal.SIGSEGV, -signal.SIGKILL)


def steps(*do: Any, **fields: Any) -> bytes:
    return json.dumps({"n": 0, "do": do, **fields}).encode()


BOMB = "memory bomb"
#: What handlers do.
DEEDS: Mapping[str, bytes] = {
    "os._exit": steps(["leave"]),
    "segmentation fault": steps(["segfault"]),
    "SIGKILL": steps(["die"]),
    BOMB: steps(["bomb", 1]),
    "hangs in Python": steps(["sleep", 1_000]),
    "hangs in Python, deaf to its time limit": steps(["hang_deaf", 1_000]),
    "hangs in C": steps(["deadlock"]),
    "hangs in C, holding the interpreter's lock": steps(["deadlock_with_gil"]),
    "SystemExit": steps(["exit", 0]),
    "KeyboardInterrupt": steps(["interrupt"]),
    "10 MB that fail": steps(["raise", "large"], text="x" * LARGE_BYTES),
}
#: What other clients may put on a queue.
BODIES: Mapping[str, bytes] = {
    "nothing": b"",
    "no object": b"[1]",
    "nested deep": b'{"n":0,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"n":0,"a":NaN}',
    "lone surrogate": b'{"n":0,"a":"\\ud800"}',
    "not UTF-8": b'{"n":0,"a":"\xff"}',
    "XML": b'<event n="0"/>',
}
BAD = {**DEEDS, **BODIES}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kinds" in metafunc.fixturenames:
        groups = [(kind,) for kind in BAD] if is_long() else [tuple(BAD)]
        metafunc.parametrize(
            "kinds", groups, ids=[group[0] if len(group) == 1 else "all" for group in groups]
        )


@pytest.mark.parametrize("lanes", ["rabbit", "postgres"])
def test_bad_events_among_good_ones(
    request: pytest.FixtureRequest, lanes: str, kinds: tuple[str, ...]
) -> None:
    stage: Stage = request.getfixturevalue(f"{lanes}_stage")
    put = put_on_the_broker if lanes == "rabbit" else put_into_the_table
    stage.env[MEMORY_LIMIT] = str(MEMORY_MB)
    turned_down = {"timeout_seconds": 2, "max_crashes": 2, "retry": {"max_attempts": 2}}
    for _ in range(3):
        stage.work(ledger={"timeout_seconds": 5} if is_long() else turned_down)
    count = stage.scale.of(400, 1_000)
    stage.produce(count, per_second=50)
    shuffled = stage.chance.sample(kinds, len(kinds))
    for kind, _ in zip(shuffled, stage.moments(len(kinds), among=count // 2), strict=True):
        put(stage, BAD[kind])
    until_failed(stage, len(kinds))
    stage.balance(
        f"event among good ones: {', '.join(kinds)}",
        faults=len(kinds),
        failed=len(kinds),
        # Each may end as many processes as ``max_crashes``, or ``max_attempts``, allows.
        duplicates_per_fault=3 * ACK_WINDOW,
        exit_codes=EXIT_CODES,
        # Whoever logs while there is no memory cannot.
        may_trace=BOMB in kinds,
    )
    bodies = Counter(bytes(body) for body in FailedEvent.objects.values_list("body", flat=True))
    assert bodies == Counter(BAD[kind] for kind in kinds), FailedEvent.objects.values_list("error", flat=True)


@pytest.mark.parametrize("lanes", ["rabbit", "postgres"])
def test_events_that_kill_one_after_another(request: pytest.FixtureRequest, lanes: str) -> None:
    """None of them lives longer because the next one kills the process that has just given it up."""
    stage: Stage = request.getfixturevalue(f"{lanes}_stage")
    put = put_on_the_broker if lanes == "rabbit" else put_into_the_table
    max_crashes, killers = 2, stage.scale.of(3, 20)
    worker = stage.work(ledger={"max_crashes": max_crashes})
    stage.produce(stage.scale.of(100, 1_000), per_second=50)
    stage.until_done(5)
    for _ in range(killers):
        put(stage, BAD["os._exit"])
    until_failed(stage, killers)
    stage.balance(
        "events that kill, one after another", faults=killers, failed=killers, exit_codes=EXIT_CODES
    )
    assert len(worker.ends) <= max_crashes * killers


def until_failed(stage: Stage, count: int) -> None:
    """What a worker has in hand is not seen in the broker's queue."""
    stage.until(lambda: FailedEvent.objects.count() >= count, f"{count} failed events", SETTLE_SECONDS)


def put_on_the_broker(stage: Stage, body: bytes, **properties: Any) -> None:
    """As any AMQP client does: none of our limits are its own."""
    with pika.BlockingConnection(pika.URLParameters(stage.env["QUEUE_URL"])) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        whole = pika.BasicProperties(message_id=clock.new_message_id(), delivery_mode=2, **properties)
        channel.basic_publish("", "ledger", body, whole, mandatory=True)


def put_into_the_table(stage: Stage, body: bytes) -> None:
    event = Event(
        queue="ledger", message_id=clock.new_message_id(), body=body, published_at_ms=clock.now_ms()
    )
    current.table().store([event])


def test_odd_events_that_are_good(rabbit_stage: Stage) -> None:
    """What other clients put on a queue past our limits is handled like any other, if it is an event at all."""
    stage = rabbit_stage
    worker = stage.work()
    stage.produce(stage.scale.of(100, 1_000))
    stage.until_done(1)
    put_on_the_broker(stage, steps(n=-1, text="x" * LARGE_BYTES))
    put_on_the_broker(stage, steps(n=-2), content_type="text/plain", content_encoding="no such thing")
    put_on_the_broker(stage, steps(n=-3), headers={"x-attempt": "none", "x-published-at-ms": -1}, priority=9)
    with pytest.raises(EventTooLarge):
        queue_json_publish("ledger", {"n": -4, "text": "x" * LARGE_BYTES})
    stage.balance("odd events of other clients", faults=3, duplicates_per_fault=0)
    assert {-1, -2, -3} <= stage.ledger.effects.keys()
    assert -4 not in stage.ledger.effects
    assert not worker.ends

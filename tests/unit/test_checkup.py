"""The doctor's pure parts: exit codes, order, what is said of values that no broker here can be brought to tell."""

from __future__ import annotations

import threading
from typing import Any

import pika.exceptions
import pytest

from zerver.lib.clock import monotonic
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.questions import is_not_found
from zerver.lib.transport.rabbitmq.surveyor import _difference, _differences, _is_allowed
from zerver.lib.transport.survey import BrokerSurvey, ListedQueue, QueueSurvey
from zerver.monitoring.asking import Asked, TimeIsUp
from zerver.monitoring.checkup import broker
from zerver.monitoring.checkup.finding import Checkup, Finding, Gap, Severity, expected

PARCELS = QueueDeclaration(name="parcels", module="shop")


def finding(severity: Severity = Severity.WARNING, **fields: Any) -> Finding:
    told = {"code": "table.overdue", "what": "w", "why": "y", "mend": "z"}
    return Finding(severity=severity, **told | fields)


def judged(queue: QueueSurvey | None = None, workers: int | None = None, **fields: Any) -> list[Finding]:
    survey = BrokerSurvey(
        **{"address": "rabbit:5672", "version": "3.10.8"} | fields,
        queues={} if queue is None else {queue.name: queue},
    )
    at_work = None if workers is None else {"parcels": workers}
    return list(broker.judge([PARCELS], survey, at_work))


def codes(found: list[Finding]) -> list[str]:
    return [each.code for each in found]


def there(**fields: Any) -> QueueSurvey:
    return QueueSurvey(
        **{"name": "parcels", "is_there": True, "ready": 0, "consumers": 1, "difference": ""} | fields
    )


@pytest.mark.parametrize(
    ("severities", "exit_code"),
    [([], 0), ([Severity.WARNING], 1), ([Severity.WARNING, Severity.PROBLEM], 2), ([Severity.PROBLEM], 2)],
)
def test_the_worst_finding_is_the_exit_code(severities: list[Severity], exit_code: int) -> None:
    checkup = Checkup(findings=tuple(map(finding, severities)), gaps=(Gap(source="broker", what="none"),))
    assert checkup.exit_code == exit_code
    assert checkup.as_json()["not_looked_at"] == [{"source": "broker", "what": "none"}]


def test_a_finding_about_all_queues_names_none() -> None:
    assert finding(place="database default").as_json()["queue"] is None
    assert finding(queue="parcels").as_json()["queue"] == "parcels"


def test_a_finding_is_about_its_queue_unless_it_says_where_else_to_look() -> None:
    assert finding(queue="parcels").as_json()["where"] == "queue parcels"
    there = finding(queue="parcels", place="worker process elsewhere:4711 of queue parcels").as_json()
    assert (there["where"], there["queue"]) == ("worker process elsewhere:4711 of queue parcels", "parcels")


def test_workers_are_expected_of_normal_queues_and_of_the_dead_ones_where_there_is_a_broker() -> None:
    declared = [
        PARCELS,
        QueueDeclaration(name="off", enabled=False),
        QueueDeclaration(name="toy", is_test_queue=True),
        QueueDeclaration(name="zerver_dead"),
    ]
    assert [queue.name for queue in expected(declared, has_broker=False)] == ["parcels"]
    assert [queue.name for queue in expected(declared, has_broker=True)] == ["parcels", "zerver_dead"]


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("3.9.29", ["broker.version"]),
        ("3.10.8", []),
        ("3.13.7+deb", []),
        ("4.3.6", []),
        ("5.0.0", ["broker.version"]),
        ("", []),
        ("weird", []),
    ],
)
def test_versions_from_3_10_to_4_are_supported(version: str, told: list[str]) -> None:
    assert codes(judged(version=version)) == told


def test_nothing_is_said_of_a_queue_that_is_as_it_should_be() -> None:
    assert judged(there(), workers=1, may_publish=True, ours=(ListedQueue(name="parcels", events=3),)) == []


def test_a_queue_that_nobody_could_be_asked_about_says_what_it_said() -> None:
    [found] = judged(QueueSurvey(name="parcels", is_there=None, problem="404 home node is down"))
    assert (found.code, found.what) == ("broker.queue-silent", "404 home node is down")


@pytest.mark.parametrize(
    ("seconds", "severity"),
    [(None, None), (1800.0, None), (60.0, None), (59.0, Severity.PROBLEM)],
)
def test_a_handler_may_take_half_of_the_consumer_timeout(
    seconds: float | None, severity: Severity | None
) -> None:
    found = judged(there(consumer_timeout_seconds=seconds), workers=1)
    assert [each.severity for each in found] == ([] if severity is None else [severity])


@pytest.mark.parametrize(
    ("ready", "consumers", "workers", "told"),
    [
        (0, 0, 0, ("broker.no-consumers", Severity.WARNING)),
        (3, 0, None, ("broker.no-consumers", Severity.PROBLEM)),
        (0, 2, 1, ("broker.foreign-consumers", Severity.WARNING)),
        (0, 2, None, None),
        (9, 2, 2, None),
        (0, 1, 2, None),
    ],
)
def test_consumers_are_held_against_worker_processes(
    ready: int, consumers: int, workers: int | None, told: tuple[str, Severity] | None
) -> None:
    found = judged(there(ready=ready, consumers=consumers), workers=workers)
    assert [(each.code, each.severity) for each in found] == ([] if told is None else [told])


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("zerver_migrate_parcels", "migrate parcels"),
        ("zerver_migrate_parc_0123456789ab", "migrate parcels"),
        ("zerver_migrate_bygone", "migrate bygone"),
    ],
)
def test_what_a_migration_has_left_names_the_queue_it_is_of(name: str, mend: str) -> None:
    [found] = judged(ours=(ListedQueue(name=name, events=None),))
    assert (found.code, found.severity) == ("broker.migration-unfinished", Severity.WARNING)
    assert found.mend.endswith(mend)
    assert "an unknown number of events" in found.what


def test_differences_are_told_by_value_and_the_type_by_its_own_word() -> None:
    listed = {
        "type": "classic",
        "durable": True,
        # 4.x writes its default type into a queue that was declared without one.
        "arguments": {"x-queue-type": "classic", "x-max-length": 5},
    }
    classic = QueueDeclaration(name="parcels", queue_type="classic")
    assert _differences(classic, listed) == (
        "x-dead-letter-exchange: broker has none, code declares ''; "
        "x-dead-letter-routing-key: broker has none, code declares zerver_dead; "
        "x-max-length: broker has 5, code declares none"
    )
    assert _differences(PARCELS, listed).startswith("type: broker has classic, code declares quorum; ")


REFUSED = pika.exceptions.ChannelClosedByBroker(403, "ACCESS_REFUSED - access to queue 'parcels'")
MISMATCH = pika.exceptions.ChannelClosedByBroker(
    406,
    "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'parcels' in vhost '/': received none but "
    "current is the value '5' of type 'signedint'",
)


@pytest.mark.parametrize(
    ("declared", "listed", "difference"),
    [
        (None, "", ""),
        (None, None, None),
        (REFUSED, None, None),
        (REFUSED, "a: b", "a: b"),
        (MISMATCH, None, "x-max-length: broker has 5, code declares none"),
        (MISMATCH, "a: b; c: d", "a: b; c: d"),
        # The broker takes it for the same; an argument that it does not know is no concern of a worker's.
        ("a frame", "x-ours: broker has 1, code declares none", ""),
        # Brokers may be told to be lax about types.
        (
            "a frame",
            "type: broker has classic, code declares quorum",
            "type: broker has classic, code declares quorum",
        ),
        (pika.exceptions.ChannelClosedByBroker(541, "INTERNAL_ERROR"), None, None),
    ],
)
def test_the_brokers_word_counts_and_the_listing_says_it_in_full(
    declared: Any, listed: str | None, difference: str | None
) -> None:
    assert _difference("parcels", declared, listed) == difference


def test_a_queue_whose_node_is_down_is_not_taken_for_missing() -> None:
    home = (
        "NOT_FOUND - home node 'rabbit@two' of durable queue 'parcels' in vhost '/' is down or inaccessible"
    )
    assert not is_not_found(pika.exceptions.ChannelClosedByBroker(404, home))
    assert is_not_found(
        pika.exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no queue 'parcels' in vhost '/'")
    )
    assert [_is_allowed(answer) for answer in (None, REFUSED, MISMATCH)] == [None, False, True]


def test_a_question_that_is_not_answered_holds_nobody() -> None:
    asked_until_the_end = threading.Event()
    asked = Asked(lambda: asked_until_the_end.wait(30))
    began = monotonic()
    with pytest.raises(TimeIsUp):
        asked.answer(monotonic() + 0.05)
    assert monotonic() - began < 5
    asked_until_the_end.set()
    assert asked.answer(monotonic() + 30)
    with pytest.raises(ZeroDivisionError):
        Asked(lambda: 1 / 0).answer(monotonic() + 30)

"""Errors to Sentry: a real SDK in real worker processes, whose own transport writes what would leave into a file."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Spine, on_sqlite
from tests.wait import wait_for

pytestmark = on_sqlite

CANARY = "canary-5d21"
_TWICE = {"retry": {"max_attempts": 2, "base_seconds": 0.01}}


@pytest.fixture
def sent(spine: Spine, tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Every process that the test starts has Sentry set up, with all that it does by default; what was sent."""
    path = tmp_path / "sentry.jsonl"
    spine.env.update(DJANGO_SETTINGS_MODULE="tests.settings_observed", TEST_SENTRY_FILE=str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _drained(spine: Spine, worker: Any) -> None:
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.output


def test_a_dead_event_is_sent_once_and_its_earlier_attempts_are_not(
    spine: Spine, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    message_id = spine.publish("ledger", ["raise", "why"], n=1, secret=CANARY)
    spine.publish("ledger", ["retry_once", 0], n=2)
    spine.publish("ledger", ["discard", "not wanted"], n=3)
    worker = spine.work("--queue=ledger", ledger=_TWICE)
    [failed] = spine.failed()
    spine.wait_for_numbers([2])
    _drained(spine, worker)

    [event] = sent()
    assert event["tags"] == {
        "queue": "ledger",
        "message_id": message_id,
        "attempt": "2",
        "outcome": "dead",
    }
    [exception] = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("ValueError", "why")
    assert exception["stacktrace"]["frames"][-1]["function"] == "_raise"
    assert (event["level"], event["transaction"]) == ("error", "process ledger")
    assert CANARY not in json.dumps(event)
    assert failed.message_id == message_id


def test_nothing_of_an_event_leaves_with_what_a_handler_captures_itself(
    spine: Spine, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    """By logging, which the SDK listens to, and by the SDK's own verbs; each with the variables of its frames."""
    message_id = spine.publish("ledger", ["log_exception", CANARY], ["capture", CANARY], n=1, secret=CANARY)
    worker = spine.work("--queue=ledger", ledger=_TWICE)
    spine.wait_for_numbers([1])
    _drained(spine, worker)

    logged, message, captured = sent()
    assert logged["logger"] == "tests.ledger"
    assert message["message"] == "look at this"
    assert captured["exception"]["values"][0]["type"] == "ValueError"
    for event in (logged, message, captured):
        assert event["tags"]["message_id"] == message_id
        assert CANARY not in json.dumps(event)
        assert '"vars"' not in json.dumps(event)


def test_bodies_are_sent_if_asked_for_without_what_the_queue_redacts(
    spine: Spine, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    spine.env["QUEUE_SENTRY_BODIES"] = "1"
    spine.publish("ledger", ["raise", f"the card {CANARY}"], n=1, secret=CANARY)
    spine.publish("ledger_other", ["raise", "why"], n=2, secret="may be seen")
    options = {"ledger": {**_TWICE, "redact": ["secret"]}, "ledger_other": _TWICE}
    worker = spine.work("--multi_threaded", "ledger", "ledger_other", **options)
    spine.failed(2)
    _drained(spine, worker)

    events = {event["tags"]["queue"]: event for event in sent()}
    redacted = events["ledger"]
    assert json.loads(redacted["contexts"]["event"]["body"])["secret"] == "[redacted]"
    assert redacted["exception"]["values"][0]["value"] == "the card [redacted]"
    assert CANARY not in json.dumps(redacted).replace(redacted["contexts"]["event"]["body"], "")
    assert json.loads(events["ledger_other"]["contexts"]["event"]["body"])["secret"] == "may be seen"


def test_what_dies_without_an_exception_is_sent_as_a_message(
    spine: Spine, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    spine.publish("ledger_batch", n=1, outcome="dead")
    worker = spine.work("--queue=ledger_batch")
    spine.failed()
    _drained(spine, worker)

    [event] = sent()
    assert event["message"].startswith("queue ledger_batch: ")
    assert event["tags"]["outcome"] == "dead"


@pytest.mark.timeout(120)
def test_a_handler_that_nothing_stops_is_sent_before_its_process_ends(
    spine: Spine, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    message_id = spine.publish("ledger", ["hang_deaf", 60], n=1, secret=CANARY)
    worker = spine.work("--queue=ledger", ledger={"timeout_seconds": 0.5})
    assert worker.wait(60) == 70

    [event] = sent()
    assert event["level"] == "fatal"
    assert event["contexts"]["event"]["message_ids"] == [message_id]
    assert CANARY not in json.dumps(event)


def test_a_sentry_that_says_nothing_holds_up_no_event(spine: Spine) -> None:
    """It takes the connection, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        spine.env.update(
            DJANGO_SETTINGS_MODULE="tests.settings_observed", TEST_SENTRY_DSN=f"http://key@127.0.0.1:{port}/1"
        )
        for n in range(9):  # with ten in a row, the queue would pause for it
            spine.publish("ledger", ["raise", "why"], n=n)
        spine.publish("ledger_other", n=1)
        worker = spine.work(
            "--multi_threaded", "ledger", "ledger_other", ledger={"retry": {"max_attempts": 1}}
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            spine.failed(9)
            spine.wait_for_numbers([1])
            _drained(spine, worker)
    wait_for(lambda: not worker.is_running(), 10, "the end")

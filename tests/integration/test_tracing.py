"""Traces on real lanes and in real processes: from who publishes to whoever consumes, retries and replays included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.wait import wait_for
from zerver.lib import trace

GARBAGE = "00-zz-é-01"


@pytest.fixture
def spans_of(spine: Spine, tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Every process that the test starts is traced; the ended spans of a name."""
    path = tmp_path / "spans.jsonl"
    spine.env.update(DJANGO_SETTINGS_MODULE="tests.settings_observed", TEST_SPANS_FILE=str(path))

    def read(name: str) -> list[dict[str, Any]]:
        lines = path.read_text().splitlines() if path.exists() else []
        return [span for span in map(json.loads, lines) if span["name"] == name]

    return read


def _publish(spine: Spine, queue: str, event: dict[str, Any]) -> None:
    """By another process, which is traced as the workers are."""
    spine.command("queue_publish", queue, json.dumps(event))


def _attempts(spans: list[dict[str, Any]]) -> list[int]:
    return [span["attributes"]["zerver.attempt"] for span in spans]


def test_every_attempt_and_a_replay_belong_to_the_trace_of_who_published(
    spine: Spine, spans_of: Callable[[str], list[dict[str, Any]]]
) -> None:
    """Attempt 1 comes over the lane under test, 2 is a row of the event table, the replay is an event of its own."""
    gate = spine.directory / "gate"
    gate.touch()
    _publish(spine, "ledger", {"n": 1, "do": [["raise_while_exists", str(gate)]]})
    spine.work("--queue=ledger", ledger={"retry": {"max_attempts": 2, "base_seconds": 0.01}})
    [failed] = spine.failed()
    gate.unlink()
    spine.command("queue_failed", "replay", str(failed.pk))
    spine.wait_for_numbers([1])
    wait_for(lambda: len(spans_of("process ledger")) == 3, 10, "the replay's span")

    [published] = spans_of("publish ledger")
    processed = spans_of("process ledger")
    context = published["context"]
    assert _attempts(processed) == [1, 2, 1]
    assert {span["context"]["trace_id"] for span in processed} == {context["trace_id"]}
    assert {span["parent_id"] for span in processed} == {context["span_id"]}
    assert [span["status"]["status_code"] for span in processed] == ["ERROR", "ERROR", "UNSET"]
    assert processed[0]["attributes"]["error.type"] == "ValueError"
    assert processed[0]["attributes"]["messaging.message.id"] == failed.message_id


@on_rabbitmq
def test_what_a_handler_publishes_is_a_child_of_its_span(
    spine: Spine, spans_of: Callable[[str], list[dict[str, Any]]]
) -> None:
    _publish(spine, "ledger", {"n": 1, "do": [["publish", "ledger_other", {"n": 2}]]})
    spine.work("--multi_threaded", "ledger", "ledger_other")
    spine.wait_for_numbers([1, 2])
    wait_for(lambda: spans_of("process ledger_other"), 10, "the last span")

    [first], [second] = spans_of("process ledger"), spans_of("process ledger_other")
    [between] = spans_of("publish ledger_other")
    assert between["parent_id"] == first["context"]["span_id"]
    assert second["parent_id"] == between["context"]["span_id"]
    assert len({span["context"]["trace_id"] for span in (first, between, second)}) == 1


@on_sqlite
def test_a_batch_links_to_who_published_each_of_its_events(
    spine: Spine, spans_of: Callable[[str], list[dict[str, Any]]]
) -> None:
    for n in range(2):
        _publish(spine, "ledger_batch", {"n": n})
    spine.work("--queue=ledger_batch")
    spine.wait_for_numbers(range(2))
    wait_for(lambda: spans_of("process ledger_batch"), 10, "the batch's span")

    [batch] = spans_of("process ledger_batch")
    published = {span["context"]["span_id"] for span in spans_of("publish ledger_batch")}
    assert batch["parent_id"] is None
    assert {link["context"]["span_id"] for link in batch["links"]} == published


@on_rabbitmq
def test_headers_that_are_no_trace_harm_nothing(
    spine: Spine, spans_of: Callable[[str], list[dict[str, Any]]]
) -> None:
    """As they come from elsewhere; here they are put past the publishing that would refuse to carry them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "headers", lambda: {"traceparent": GARBAGE, "tracestate": "\x7f" * 10_000})
        spine.publish("ledger", n=1)
    worker = spine.work("--queue=ledger")
    spine.wait_for_numbers([1])
    wait_for(lambda: spans_of("process ledger"), 10, "its span")

    [span] = spans_of("process ledger")
    assert (span["parent_id"], span["links"]) == (None, [])
    assert "\x7f" not in worker.output


@on_sqlite
def test_everything_works_with_neither_opentelemetry_nor_sentry_installed(spine: Spine) -> None:
    spine.env.update(
        DJANGO_SETTINGS_MODULE="tests.settings_observed", TEST_NOT_INSTALLED="opentelemetry sentry_sdk"
    )
    spine.command("queue_publish", "ledger", json.dumps({"n": 1, "do": [["retry_once", 0]]}))
    spine.command("queue_publish", "ledger", json.dumps({"n": 2, "do": [["raise", "why"]]}))
    worker = spine.work("--queue=ledger", ledger={"retry": {"max_attempts": 2, "base_seconds": 0.01}})
    spine.wait_for_numbers([1])
    assert [failed.attempt for failed in spine.failed()] == [2]
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert "Traceback" not in worker.output

"""``QUEUE_LOG_FORMAT`` in real processes: what they write can be read by a program, line by line, and each once."""

from __future__ import annotations

import json
import signal

import pytest

from tests.integration.conftest import Spine, on_sqlite

pytestmark = on_sqlite


@pytest.mark.parametrize("logging", ["the project's own", "none"])
def test_a_worker_process_writes_json_lines(spine: Spine, logging: str) -> None:
    spine.env.update(QUEUE_LOG_FORMAT="json")
    if logging == "none":
        spine.env.update(DJANGO_SETTINGS_MODULE="tests.settings_observed", TEST_LOGGING="none")
    message_id = spine.publish("ledger", ["log_exception", "x"], ["raise", "größer\n\x1b[2J"], n=1)
    worker = spine.work("--queue=ledger", ledger={"retry": {"max_attempts": 1}})
    spine.failed()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0

    lines = [line for line in worker.output.splitlines() if not line.startswith("draining: ")]
    records = [json.loads(line) for line in lines]
    assert [each["message"] for each in records if "started" in each["message"]] == [
        "queue ledger: worker started"
    ]
    [dead] = [each for each in records if each["logger"] == "zerver.event"]
    assert (dead["level"], dead["queue"], dead["event_id"]) == ("ERROR", "ledger", message_id)
    assert dead["message"].endswith("dead: ValueError: größer \\x1b[2J")
    [logged] = [each for each in records if each["logger"] == "tests.ledger"]
    assert logged["exception"].endswith("ValueError: logged")


def test_a_format_that_there_is_not_is_refused_in_one_line(spine: Spine) -> None:
    spine.env.update(QUEUE_LOG_FORMAT="xml")
    worker = spine.work("--queue=ledger")
    assert worker.wait() == 1
    assert worker.output == "CommandError: QUEUE_LOG_FORMAT: 'xml' cannot be used; write line or json\n"

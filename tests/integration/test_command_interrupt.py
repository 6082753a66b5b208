"""Ctrl-C: a command ends with 130, and says what it has done that cannot be taken back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import connection

from tests.integration.commands import run
from tests.integration.failed import fail
from tests.servers.databases import TestDatabase
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.lib.queue import queue_json_publish_many
from zerver.models import WaitingEvent


@contextmanager
def ctrl_c_at(number: int, statement: str) -> Iterator[None]:
    """It comes while so many a statement that says this is run."""
    seen = 0

    def interrupt(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        nonlocal seen
        seen += statement in sql
        if seen == number:
            raise KeyboardInterrupt
        return execute(sql, *rest)

    with connection.execute_wrapper(interrupt):
        yield


def test_a_purge_says_how_many_are_gone(queue_database: TestDatabase) -> None:
    queue_json_publish_many("noop", [{}] * 2_500)
    with ctrl_c_at(3, "DELETE FROM zerver_event "):
        ran = run("purge_queue", "noop")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err == "stopped; at least 2000 were deleted and are gone; run it again for the rest\n"
    assert WaitingEvent.objects.count() == 500


def test_a_publish_of_many_says_how_many_are_there(queue_database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{}\n" * 700)
    with ctrl_c_at(3, "INSERT INTO zerver_event "):
        ran = run("queue_publish", "noop", "--file", str(path))
    assert (ran.code, ran.out) == (130, "")
    assert ran.err == "stopped; published 500; some of the next 200 may have been published too\n"
    assert WaitingEvent.objects.count() == 500


def test_a_replay_says_how_far_it_came(queue_database: TestDatabase) -> None:
    for _ in range(3):
        fail()
    with ctrl_c_at(2, "INSERT INTO zerver_event "):
        ran = run("queue_failed", "replay", "--all")
    assert (ran.code, ran.err) == (130, "stopped; replayed 1; 2 are still to do, run it again\n")


def test_while_the_project_is_being_loaded_it_ends_without_a_word(
    project_process: Callable[..., ProjectProcess], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "slow_settings.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)\n"
    )
    env = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "slow_settings"}
    process = project_process("queue_list", env=env)
    wait_for(begun.exists, 60, "the settings to be read")
    process.signal(signal.SIGINT)
    assert (process.wait(), process.output) == (130, "")

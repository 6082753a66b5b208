"""queue_failed: what died is shown, replayed, discarded, pruned."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from pytest_django import Settings

from tests.integration.commands import Ran, run
from tests.servers.databases import TestDatabase
from tests.servers.processes import ProjectProcess
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import file_failed
from zerver.management.output import moment
from zerver.models import FailedEvent, WaitingEvent

DAY_MS = 86_400_000


def fail(
    queue: str = "noop", body: bytes = b'{"n":1}', *, error: str = "ValueError: no", days_ago: float = 0
) -> str:
    """File a failed event; its message id."""
    event = Event(
        queue=queue,
        message_id=clock.new_message_id(),
        body=body,
        published_at_ms=clock.now_ms(),
        attempt=5,
        headers={"traceparent": "00-abc"},
    )
    file_failed(event, error=error, traceback="Traceback: here\n", worker="host:1", alias="default")
    if days_ago:
        at_ms = EventTable("default").now_ms() - int(days_ago * DAY_MS)
        FailedEvent.objects.filter(message_id=event.message_id).update(failed_at_ms=at_ms)
    return event.message_id


def listed(*arguments: str) -> list[str]:
    return [item["message_id"] for item in run("queue_failed", "list", "--json", *arguments).json["failed"]]


def states() -> dict[str, str]:
    return dict(FailedEvent.objects.values_list("message_id", "state"))


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``editor("sed -i s/1/2/")`` makes that the operator's editor; what it was given to edit is kept beside."""

    def make(command: str) -> Path:
        script, seen = tmp_path / "editor", tmp_path / "seen"
        script.write_text(f'#!/bin/sh\ncat "$1" >> {seen}\n{command} "$1"\n')
        script.chmod(0o755)
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", str(script))
        # Drafts that are kept go with the test.
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return seen

    return make


def test_open_ones_are_listed_newest_first(queue_database: TestDatabase) -> None:
    old, new = fail(days_ago=1), fail(error="KeyError: 'user'")
    assert listed() == [new, old]
    ran = run("queue_failed", "list")
    assert "KeyError: 'user'" in ran.out
    assert '{"n":1}' not in ran.out


def test_filters_choose_by_queue_error_and_time(queue_database: TestDatabase) -> None:
    one = fail("noop", error="ValueError: first", days_ago=2)
    two = fail("noop_batch", error="KeyError: second", days_ago=0.5)
    assert listed("--queue", "noop") == [one]
    assert listed("--error", "SECOND") == [two]
    assert listed("--since", "1d") == [two]
    assert listed("--since", "3d") == [two, one]
    assert listed("--since", "2020-01-01T00:00") == [two, one]
    assert listed("--since", "1d", "--queue", "noop") == []


def test_a_time_is_meant_as_the_listing_shows_it_whatever_the_projects_time_zone_is(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    message_id = fail()
    row = FailedEvent.objects.get()
    shown = moment(row.failed_at_ms).removesuffix("Z")
    assert shown in run("queue_failed", "list").out
    assert listed("--since", shown) == [message_id]
    later = moment(row.failed_at_ms + 1000).removesuffix("Z")
    assert listed("--since", later) == []
    assert listed("--since", f"{shown}+00:00") == [message_id]


def test_show_tells_everything_by_either_id(queue_database: TestDatabase) -> None:
    message_id = fail(body=b'{"n":1}')
    row = FailedEvent.objects.get()
    for name in (message_id, str(row.pk)):
        ran = run("queue_failed", "show", name)
        assert all(text in ran.out for text in (message_id, '"n": 1', "Traceback: here", "00-abc", "host:1"))
    [shown] = run("queue_failed", "show", message_id, "--json").json["failed"]
    assert (shown["body"], shown["body_base64"], shown["attempt"]) == ({"n": 1}, None, 5)


def test_a_body_that_is_no_json_is_shown_all_the_same(queue_database: TestDatabase) -> None:
    message_id = fail(body=b"\xff garbage")
    assert "\\xff garbage" in run("queue_failed", "show", message_id).out
    [shown] = run("queue_failed", "show", message_id, "--json").json["failed"]
    assert (shown["body"], base64.b64decode(shown["body_base64"])) == (None, b"\xff garbage")


def test_replay_publishes_the_same_body_anew_and_notes_who_and_when(queue_database: TestDatabase) -> None:
    message_id = fail(body=b'{"n": 1 }')
    ran = run("queue_failed", "replay", message_id, "--by", "alice")
    assert ran.code == 0, ran.err
    waiting, row = WaitingEvent.objects.get(), FailedEvent.objects.get()
    assert (bytes(waiting.body), waiting.attempt, waiting.message_id) == (b'{"n": 1 }', 1, ran.out.strip())
    assert (row.state, row.resolved_by, row.replay_message_id) == ("replayed", "alice", waiting.message_id)
    assert row.resolved_at_ms is not None
    assert listed() == []
    assert listed("--all") == [message_id]
    assert f"replayed as {waiting.message_id} by alice" in run("queue_failed", "show", message_id).out


def test_a_second_replay_publishes_nothing_and_says_so(queue_database: TestDatabase) -> None:
    message_id = fail()
    assert run("queue_failed", "replay", message_id).code == 0
    again = run("queue_failed", "replay", message_id)
    assert again.code == 1
    assert "was replayed or discarded before" in again.err
    assert WaitingEvent.objects.count() == 1


def test_many_are_replayed_oldest_first_by_filter(queue_database: TestDatabase) -> None:
    for n in range(120):
        fail(body=b'{"n":%d}' % n, error="Timeout" if n % 2 else "ValueError")
    ran = run("queue_failed", "replay", "--error", "timeout", "--json")
    assert (ran.code, len(ran.json["replayed"]), ran.json["skipped"]) == (0, 60, [])
    bodies = [json.loads(bytes(row.body))["n"] for row in WaitingEvent.objects.order_by("id")]
    assert bodies == list(range(1, 120, 2))
    assert run("queue_failed", "replay", "--all").out == "replayed 60\n"


def test_a_rate_spreads_a_replay(queue_database: TestDatabase) -> None:
    for _ in range(5):
        fail()
    started = time.monotonic()
    assert run("queue_failed", "replay", "--all", "--rate", "20").code == 0
    assert time.monotonic() - started >= 4 / 20


def test_a_queue_that_nobody_declares_gets_nothing_and_the_others_are_replayed(
    queue_database: TestDatabase,
) -> None:
    gone, kept = fail("gone_queue"), fail()
    ran = run("queue_failed", "replay", "--all")
    assert ran.code == 1
    assert "no worker declares queue 'gone_queue'" in ran.err
    assert ran.err.splitlines()[-1] == "replayed 1, left 1 as they are"
    assert states() == {gone: "failed", kept: "replayed"}


def test_an_id_that_is_not_there_is_named_before_anything_is_done(queue_database: TestDatabase) -> None:
    message_id = fail()
    ran = run("queue_failed", "replay", message_id, "987654321", "nonesuch")
    assert (ran.code, ran.err) == (1, "there is no failed event 987654321, nonesuch\n")
    assert states() == {message_id: "failed"}


def test_edit_changes_the_body_before_it_is_replayed(
    queue_database: TestDatabase, editor: Callable[[str], Path]
) -> None:
    message_id = fail(body=b'{"n":1}')
    seen = editor("sed -i s/1/22/")
    ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 0, ran.err
    assert seen.read_text() == '{\n  "n": 1\n}'
    assert json.loads(bytes(WaitingEvent.objects.get().body)) == {"n": 22}
    assert bytes(FailedEvent.objects.get().body) == b'{"n":1}'
    assert not list(seen.parent.glob("zerver-edit-*"))


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("true", "the event was not changed; nothing was replayed"),
        ("truncate -s 0", "the event was not changed; nothing was replayed"),
        ("false", "the editor ended with 1; nothing was done"),
    ],
)
def test_an_edit_that_makes_no_event_replays_nothing(
    queue_database: TestDatabase, editor: Callable[[str], Path], command: str, problem: str
) -> None:
    message_id = fail(body=b'{"n":1}')
    editor(command)
    ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 1
    assert problem in ran.err
    assert states() == {message_id: "failed"}
    assert not WaitingEvent.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        b'{"price":1.10,"big":123456789012345678901234567890,"long":0.12345678901234567890,"n":1}',
        b'{"a":1,"a":2,"n":1}',
    ],
)
def test_an_edit_changes_what_the_operator_changed_and_nothing_else(
    queue_database: TestDatabase, editor: Callable[[str], Path], body: bytes
) -> None:
    message_id = fail(body=body)
    editor("""sed -i 's/"n": 1/"n": "ü"/'""")
    ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 0, ran.err
    assert bytes(WaitingEvent.objects.get().body) == body.replace(b'"n":1', '"n":"ü"'.encode())


def test_an_edit_of_the_layout_alone_publishes_the_very_same_bytes(
    queue_database: TestDatabase, editor: Callable[[str], Path]
) -> None:
    message_id = fail(body=b'{ "n" :1.0}')
    editor("sed -i 's/^  /        /'")
    assert run("queue_failed", "replay", message_id, "--edit").code == 0
    assert bytes(WaitingEvent.objects.get().body) == b'{ "n" :1.0}'


def test_a_body_that_was_no_json_can_be_made_an_event(
    queue_database: TestDatabase, editor: Callable[[str], Path]
) -> None:
    message_id = fail(body=b'{"n":1}"')
    editor("""sed -i 's/"$//'""")
    assert run("queue_failed", "replay", message_id, "--edit").code == 0
    assert bytes(WaitingEvent.objects.get().body) == b'{"n":1}'


def kept_draft(ran: Ran) -> Path:
    """The file that the command says it has kept."""
    [line] = [line for line in ran.err.splitlines() if line.startswith("what you wrote is kept in ")]
    return Path(line.removeprefix("what you wrote is kept in "))


@pytest.mark.parametrize(
    ("command", "problem", "written"),
    [
        ("sed -i s/1/{/", "event is not JSON at $: ", b'{\n  "n": {\n}'),
        ('printf \'{"n": "\\374"}\' >', "byte 7 is not UTF-8; save it as UTF-8", b'{"n": "\xfc"}'),
    ],
)
def test_what_was_written_in_vain_is_kept_and_found_again(
    queue_database: TestDatabase, editor: Callable[[str], Path], command: str, problem: str, written: bytes
) -> None:
    message_id = fail(body=b'{"n":1}')
    editor(command)
    ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 1
    assert problem in ran.err
    kept = kept_draft(ran)
    assert kept.read_bytes().rstrip(b"\n") == written
    assert kept.parent.stat().st_mode & 0o77 == 0  # its owner's alone


def test_what_was_written_is_kept_when_it_cannot_be_stored(
    queue_database: TestDatabase, editor: Callable[[str], Path]
) -> None:
    message_id = fail(body=b'{"n":1}')
    editor("sed -i s/1/22/")
    with database_that_fails_at_row(1):
        ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 1
    kept = kept_draft(ran)
    assert json.loads(kept.read_bytes()) == {"n": 22}
    assert states() == {message_id: "failed"}


@pytest.mark.parametrize("text", ['vi "', "'"])
def test_an_editor_that_is_no_command_is_told(
    queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    message_id = fail()
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", text)
    ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 1
    assert ran.err.startswith(f"EDITOR is no command: {text!r} (No closing quotation)")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_when_the_database_fails_on_the_way_what_was_done_is_told(
    queue_database: TestDatabase, arguments: tuple[str, ...]
) -> None:
    ids = [fail(days_ago=10 - n) for n in range(5)]
    with database_that_fails_at_row(3):
        ran = run("queue_failed", "replay", "--all", *arguments)
    assert ran.code == 1
    assert "replayed 2; 3 are still to do, run it again" in ran.err.splitlines()[-1]
    if arguments:
        assert [item["message_id"] for item in ran.json["replayed"]] == ids[:2]
    assert [states()[message_id] for message_id in ids] == ["replayed"] * 2 + ["failed"] * 3
    assert run("queue_failed", "replay", "--all").out == "replayed 3\n"


@contextmanager
def database_that_fails_at_row(number: int) -> Iterator[None]:
    """The statement that stores so many an event meets a server that has gone."""
    stored = 0

    def fail_there(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        nonlocal stored
        stored += "INSERT INTO zerver_event " in sql
        if stored == number:
            raise OperationalError("server closed the connection unexpectedly")
        return execute(sql, *rest)

    with connection.execute_wrapper(fail_there):
        yield


def test_what_a_terminal_would_obey_is_shown_instead(queue_database: TestDatabase) -> None:
    message_id = fail(body=b"\x1b]0;owned\x07 \xc2\x9b2J", error="ValueError: \x1b[2J\x9b1A\u202e")
    for ran in (
        run("queue_failed", "list"),
        run("queue_failed", "show", message_id),
        run("queue_failed", "list", "--json"),
        run("queue_failed", "show", message_id, "--json"),
    ):
        assert ran.code == 0
        assert not set("\x1b\x07\x9b\u202e") & set(ran.out)
    assert run("queue_failed", "show", message_id, "--json").json["failed"][0]["error"].endswith("\u202e")
    fail("gone\x1b[2J")
    ran = run("queue_failed", "replay", "--all")
    assert "\\x1b[2J" in ran.err
    assert "\x1b" not in ran.err


def test_an_edit_is_checked_against_the_queues_type(
    queue_database: TestDatabase, editor: Callable[[str], Path]
) -> None:
    message_id = fail("user_activity", b'{"n":1}')
    editor("sed -i s/n/m/")
    ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 1
    assert "is not a UserActivityEvent" in ran.err
    assert states() == {message_id: "failed"}


def test_one_is_discarded_at_once_and_many_only_with_yes(queue_database: TestDatabase) -> None:
    one = fail()
    assert run("queue_failed", "discard", one, "--by", "bob").code == 0
    assert FailedEvent.objects.get().resolved_by == "bob"
    fail()
    fail()
    refused = run("queue_failed", "discard", "--all")
    assert (refused.code, refused.err) == (2, "this is no terminal to ask at: give --yes to go ahead\n")
    assert len(listed()) == 2
    assert run("queue_failed", "discard", "--all", "--yes").out == "discarded 2\n"
    assert listed() == []
    assert not WaitingEvent.objects.exists()


def test_prune_deletes_what_is_older_than_the_retention_or_the_days_given(
    queue_database: TestDatabase,
) -> None:
    oldest, old, young = fail(days_ago=31), fail(days_ago=8), fail(days_ago=1)
    assert run("queue_failed", "prune", "--yes").out == "pruned 1\n"
    assert set(states()) == {old, young}
    assert run("queue_failed", "prune", "--older-than", "7", "--yes", "--json").json == {"pruned": 1}
    assert set(states()) == {young}
    assert run("queue_failed", "prune", "--older-than", "0.5").code == 2
    assert oldest not in states()


def refused(*arguments: str) -> Ran:
    return run("queue_failed", *arguments)


def test_what_is_meant_must_be_said(queue_database: TestDatabase) -> None:
    message_id = fail()
    assert refused("replay").code == 2
    assert refused("replay", message_id, "--all").code == 2
    assert refused("list", "--since", "yesterday").code == 2
    fail()
    assert refused("replay", "--all", "--edit").code == 2
    assert set(states().values()) == {"failed"}


def test_exit_codes_as_a_shell_sees_them(
    sqlite_database: str, project_process: Callable[..., ProjectProcess]
) -> None:
    expected = {
        ("list",): 0,
        ("show", "nonesuch"): 1,
        (): 2,
        ("replay",): 2,
        ("replay", "--all", "--rate=0"): 2,
        ("prune",): 2,
        ("prune", "--yes"): 0,
    }
    env = {"DATABASE_URL": sqlite_database}
    processes = {verb: project_process("queue_failed", *verb, env=env) for verb in expected}
    assert {verb: process.wait(60) for verb, process in processes.items()} == expected
    assert not any("Traceback" in process.output for process in processes.values())

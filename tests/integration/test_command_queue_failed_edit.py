"""queue_failed replay --edit: the operator's own editor, and what becomes of what was written."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.commands import Ran, at_terminal, run
from tests.integration.failed import database_that_fails_at_row, fail, states
from tests.servers.databases import TestDatabase
from zerver.models import FailedEvent, WaitingEvent


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


@pytest.fixture(autouse=True)
def operator() -> Iterator[None]:
    """Sits at a terminal, and wants no second try."""
    with at_terminal("n\n"):
        yield


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
    [path] = re.findall("what you wrote is kept in (.+)", ran.err)
    return Path(path)


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


def test_an_edit_is_checked_against_the_queues_type(
    queue_database: TestDatabase, editor: Callable[[str], Path]
) -> None:
    message_id = fail("user_activity", b'{"n":1}')
    editor("sed -i s/n/m/")
    ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 1
    assert "is not a UserActivityEvent" in ran.err
    assert states() == {message_id: "failed"}


def test_nobody_can_edit_without_a_terminal(
    queue_database: TestDatabase, editor: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = fail(body=b'{"n":1}')
    seen = editor("sed -i s/1/22/")
    with open(os.devnull) as not_a_terminal:
        for stdin in (not_a_terminal, None):
            monkeypatch.setattr(sys, "stdin", stdin)
            ran = run("queue_failed", "replay", message_id, "--edit")
            assert (ran.code, ran.err) == (2, "--edit: this is no terminal to edit at\n")
    assert not seen.exists()
    assert states() == {message_id: "failed"}


def test_what_was_wrong_may_be_edited_again(
    queue_database: TestDatabase, editor: Callable[[str], Path]
) -> None:
    message_id = fail(body=b'{"n":1}')
    editor("sed -i 's/x1/22/; s/: 1$/: x1/'")
    with at_terminal("y\n"):
        ran = run("queue_failed", "replay", message_id, "--edit")
    assert ran.code == 0, ran.err
    assert "Edit again? [y/N]" in ran.err

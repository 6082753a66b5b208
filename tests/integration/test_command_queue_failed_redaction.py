"""``redact``: what queue_failed shows of bodies, and that what is replayed and edited is whole."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.commands import at_terminal, run
from tests.integration.failed import fail
from zerver.lib.redaction import MARK
from zerver.lib.registry import queues
from zerver.models import FailedEvent, WaitingEvent

SECRET = "4111-1111"
BODY = f'{{"n":1.10,"card":{{"number":"{SECRET}"}},"user":{{"email":"{SECRET}@x","id":7}}}}'.encode()

pytestmark = pytest.mark.usefixtures("queue_database")


@pytest.fixture(autouse=True)
def _redacted() -> Iterator[None]:
    before = queues.overrides
    queues.apply_overrides({"noop": {"redact": ["card", "user.email"]}})
    yield
    queues.apply_overrides(before)


def test_fields_are_hidden_and_the_rest_is_shown_digit_for_digit() -> None:
    message_id = fail("noop", BODY)
    told = run("queue_failed", "show", message_id)
    as_json = run("queue_failed", "show", message_id, "--json")
    assert SECRET not in told.out + as_json.out
    assert '"n": 1.10' in told.out
    assert "redacted: card, user.email; --reveal shows all of it" in told.out
    [shown] = as_json.json["failed"]
    assert shown["body"] == {"n": 1.1, "card": MARK, "user": {"email": MARK, "id": 7}}
    assert (shown["body_base64"], shown["redacted"]) == (None, ["card", "user.email"])


def test_reveal_shows_everything() -> None:
    message_id = fail("noop", BODY)
    assert SECRET in run("queue_failed", "show", message_id, "--reveal").out
    [shown] = run("queue_failed", "show", message_id, "--reveal", "--json").json["failed"]
    assert (shown["body"], shown["redacted"]) == (json.loads(BODY), [])


@pytest.mark.parametrize("body", [f"garbage {SECRET}".encode(), f'{{"card": "{SECRET}"'.encode()])
def test_what_is_not_json_is_hidden_as_a_whole(body: bytes) -> None:
    message_id = fail("noop", body)
    assert f"{len(body)} bytes that are not JSON, redacted" in run("queue_failed", "show", message_id).out
    [shown] = run("queue_failed", "show", message_id, "--json").json["failed"]
    assert (shown["body"], shown["body_base64"], shown["redacted"]) == (None, None, ["*"])
    assert SECRET in run("queue_failed", "show", message_id, "--reveal").out


def test_a_body_of_a_queue_that_nobody_declares_is_hidden() -> None:
    message_id = fail("nobody_s", BODY)
    [shown] = run("queue_failed", "show", message_id, "--json").json["failed"]
    assert shown["body"] == {"n": MARK, "card": MARK, "user": MARK}


def test_queues_that_redact_nothing_are_shown_as_they_are() -> None:
    message_id = fail("incoming_webhooks", BODY)
    [shown] = run("queue_failed", "show", message_id, "--json").json["failed"]
    assert (shown["body"], shown["redacted"]) == (json.loads(BODY), [])


def test_what_is_replayed_is_whole() -> None:
    message_id = fail("noop", BODY)
    ran = run("queue_failed", "replay", message_id, "--json")
    assert ran.code == 0
    assert SECRET not in ran.out + ran.err
    assert bytes(WaitingEvent.objects.get().body) == BODY == bytes(FailedEvent.objects.get().body)


def test_an_editor_shows_everything_so_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, seen = tmp_path / "editor", tmp_path / "seen"
    script.write_text(f'#!/bin/sh\ncat "$1" > {seen}\nsed -i s/1.10/2.20/ "$1"\n')
    script.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(script))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    message_id = fail("noop", BODY)
    refused = run("queue_failed", "replay", message_id, "--edit")
    assert refused.code == 2
    assert "queue 'noop' redacts card, user.email, and an editor shows all of it: add --reveal" in refused.err
    assert not seen.exists()
    with at_terminal():
        assert run("queue_failed", "replay", message_id, "--edit", "--reveal").code == 0
    assert SECRET in seen.read_text()
    assert bytes(WaitingEvent.objects.get().body) == BODY.replace(b"1.10", b"2.20")


def test_reveal_without_anything_to_show_is_refused() -> None:
    ran = run("queue_failed", "replay", fail("noop", BODY), "--reveal")
    assert ran.code == 2
    assert WaitingEvent.objects.count() == 0


def test_the_list_shows_nothing_of_a_body() -> None:
    message_id = fail("noop", BODY)
    ran = run("queue_failed", "list")
    assert message_id in ran.out
    assert SECRET not in ran.out

"""queue_failed: what died is shown, replayed, discarded, pruned."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest
from pytest_django import Settings

from tests.integration.commands import Ran, run
from tests.integration.failed import database_that_fails_at_row, fail, listed, states
from tests.servers.databases import TestDatabase
from tests.servers.processes import ProjectProcess
from zerver.management.output import moment
from zerver.models import FailedEvent, WaitingEvent


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


def test_a_body_is_shown_to_programs_as_it_is_stored(queue_database: TestDatabase) -> None:
    message_id = fail(
        body=b'{"price":1.10,"big":123456789012345678901234567890,"a":1,"a":1e2,"t":"\\u00fc\xc2\x9b"}'
    )
    ran = run("queue_failed", "show", message_id, "--json")
    shown = [
        '"price": 1.10,',
        '"big": 123456789012345678901234567890,',
        '"a": 1,',
        '"a": 1e2,',
        r'"t": "\u00fc\u009b"',
    ]
    assert [line.strip() for line in ran.out.partition('"body": {')[2].splitlines()[1:6]] == shown
    assert ran.json["failed"][0]["body"]["t"] == "ü\x9b"


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


def test_the_beginning_of_one_message_id_is_enough(queue_database: TestDatabase) -> None:
    one, other = (
        fail(message_id=f"0190c1de-8f2b-7{'c' * 22}1"),
        fail(message_id=f"0190c1de-8f2b-7{'c' * 22}2"),
    )
    third = fail(message_id="0190c1df-0000-7ccc-98c4-dc0c0c07398f")
    assert third in run("queue_failed", "show", "0190C1DF").out
    assert refused("show", "0190c1de").err == f"several message ids begin with 0190c1de: {one}, {other}\n"
    assert refused("show", "0190c1d").err == "there is no failed event 0190c1d\n"
    assert run("queue_failed", "discard", "0190c1df-00", one, "--yes").code == 0
    assert states() == {one: "discarded", other: "failed", third: "discarded"}


def test_the_record_never_names_nobody(queue_database: TestDatabase) -> None:
    message_id = fail()
    ran = run("queue_failed", "replay", message_id, "--by", " ")
    assert "argument --by: the record would name nobody" in ran.err
    assert states() == {message_id: "failed"}


def test_what_is_meant_must_be_said(queue_database: TestDatabase) -> None:
    message_id = fail()
    assert refused("replay").code == 2
    assert refused("replay", message_id, "--all").code == 2
    assert refused("list", "--since", "yesterday").code == 2
    assert refused("list", "--since", "99999999999d").err == (
        "--since: '99999999999d' is longer ago than there are dates; write 30m, 2h or 3d\n"
    )
    fail()
    assert refused("replay", "--all", "--edit").code == 2
    assert set(states().values()) == {"failed"}


@pytest.mark.parametrize("verb", [("list",), ("replay",), ("discard", "--yes"), ("prune", "--yes")])
def test_a_queue_of_which_there_is_nothing_is_refused(
    queue_database: TestDatabase, verb: tuple[str, ...]
) -> None:
    fail("bygone")
    ran = run("queue_failed", *verb, "--queue", "nop")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "--queue: no worker declares 'nop', and there are no failed events of it; did you mean 'noop'?\n"
    )
    err = run("queue_failed", *verb, "--queue", "zzz").err
    assert "; declared: default, django_mail, incoming_webhooks, " in err, (
        "and not bygone, of which there are only rows"
    )
    assert "more, which queue_list --all tells; of others there are failed events: bygone; declare it" in err


def test_a_queue_that_was_removed_since_is_known_by_its_rows(queue_database: TestDatabase) -> None:
    message_id = fail("bygone")
    assert listed("--queue", "bygone") == [message_id]
    assert run("queue_failed", "discard", message_id).code == 0
    assert listed("--queue", "bygone") == []
    assert listed("--queue", "noop") == []


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

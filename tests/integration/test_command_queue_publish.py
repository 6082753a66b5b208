"""queue_publish: one event, a file, a pipe."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker, Settings

from tests.integration.commands import run
from tests.servers.databases import TestDatabase, use_database
from tests.servers.processes import REPOSITORY, ProjectProcess
from tests.wait import wait_for
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.admin import BrokerAdmin
from zerver.models import WaitingEvent


def bodies(queue: str = "noop") -> list[dict[str, object]]:
    return [json.loads(bytes(row.body)) for row in WaitingEvent.objects.filter(queue=queue).order_by("id")]


def test_one_event_is_published_and_its_message_id_told(queue_database: TestDatabase) -> None:
    ran = run("queue_publish", "noop", '{"a": [1, "ü"]}')
    assert ran.code == 0
    assert WaitingEvent.objects.get().message_id == ran.out.strip()
    assert bodies() == [{"a": [1, "ü"]}]


def test_for_programs_the_message_id_comes_as_json(queue_database: TestDatabase) -> None:
    answer = run("queue_publish", "noop", "{}", "--json").json
    assert answer == {"queue": "noop", "message_id": WaitingEvent.objects.get().message_id}


def test_a_delay_makes_it_due_later(queue_database: TestDatabase) -> None:
    run("queue_publish", "noop", "{}", "--delay", "3600")
    row = WaitingEvent.objects.get()
    assert row.due_at_ms - row.published_at_ms >= 3_500_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonesuch", "{}"), "no worker declares queue 'nonesuch'"),
        (("noop", "{broken"), "event is not JSON at $: JSON is malformed"),
        (("noop", ""), "event is not JSON at $: it is empty"),
        (("noop", "[" * 100_000), "event is not JSON at $: nested deeper than 100 levels"),
        (("noop", '{"a": ["\\ud800"]}'), "event is not JSON at $.a[0]: text with a lone surrogate"),
        (("noop", '{"\\ud800": 1}'), "event is not JSON at $: text with a lone surrogate"),
        (("noop", '{"a": "\udcff"}'), "event is not JSON at $: "),
        (("noop", "[1]"), "event is not JSON at $: an event is a JSON object"),
        (("user_activity", "{}"), "event for queue 'user_activity' is not a UserActivityEvent"),
        (("noop", json.dumps({"a": "x" * (1 << 20)})), "over QUEUE_MAX_EVENT_BYTES"),
        (("noop", "--file", "/nonesuch"), "/nonesuch cannot be read: No such file"),
    ],
)
def test_what_is_refused_is_told_in_one_line_and_nothing_is_sent(
    queue_database: TestDatabase, arguments: tuple[str, ...], message: str
) -> None:
    ran = run("queue_publish", *arguments)
    assert ran.code == 1
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "may have been published" not in ran.err
    assert not WaitingEvent.objects.exists()


@pytest.mark.parametrize(("arguments", "told"), [(("{}",), ""), (("-",), "; published 0")])
def test_with_a_setting_that_cannot_be_read_nothing_is_said_to_have_been_published(
    queue_database: TestDatabase,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    settings.QUEUE_MAX_EVENT_BYTES = "many"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}\n")))
    ran = run("queue_publish", "noop", *arguments)
    assert ran.code == 1
    assert ran.err.startswith("QUEUE_MAX_EVENT_BYTES")
    assert "may have been published" not in ran.err
    assert ran.err.rstrip().endswith(told)


def test_a_file_of_many_lines_is_published_in_order(queue_database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(1_234)))
    ran = run("queue_publish", "noop", "--file", str(path))
    assert (ran.code, ran.out, ran.err) == (0, "published 1234\n", "")
    assert [body["n"] for body in bodies()] == list(range(1_234))


def test_a_bad_line_is_named_with_the_reason_and_the_others_are_published(
    queue_database: TestDatabase, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"n": 1}\n{broken\n\n["no object"]\n{"n": 2}\n')
    ran = run("queue_publish", "noop", "--file", str(path))
    assert ran.code == 1
    first, second, last = ran.err.splitlines()
    assert first.startswith(f"{path}:2: ")
    assert second.startswith(f"{path}:4: event is not JSON at $: an event is a JSON object")
    assert last == "published 2, refused 2 (nothing of the refused was sent)"
    assert bodies() == [{"n": 1}, {"n": 2}]
    as_json = run("queue_publish", "noop", "--json", "--file", str(path))
    assert as_json.code == 1
    assert as_json.json["published"] == 2
    assert [bad["place"] for bad in as_json.json["refused"]] == [f"{path}:2", f"{path}:4"]


def test_of_many_bad_lines_the_first_ten_are_named_and_the_others_counted(
    queue_database: TestDatabase, tmp_path: Path
) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\x7fELF\x00\n" * 700 + b"{}\n")
    ran = run("queue_publish", "noop", "--file", str(path))
    assert ran.code == 1
    *named, more, last = ran.err.splitlines()
    assert [line.split(": ")[0] for line in named] == [f"{path}:{number}" for number in range(1, 11)]
    assert more == "… and 690 more"
    assert last == "published 1, refused 700 (nothing of the refused was sent)"
    assert len(run("queue_publish", "noop", "--json", "--file", str(path)).json["refused"]) == 700


def test_a_zulip_error_file_is_published_event_by_event(queue_database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "noop.errors"
    path.write_text(
        'Tue Nov 14 22:13:20 2023\t[{"n": 1}, {"n": 2}]\n'
        'Tue Nov 14 22:13:21 2023\t[{"n": 3}, 4]\n'
        '1700000000\t{"n": 5}\n'
    )
    ran = run("queue_publish", "noop", "--file", str(path))
    assert ran.code == 1
    assert ran.err.startswith(f"{path}:2 event 2: ")
    assert [body["n"] for body in bodies()] == [1, 2, 3, 5]


def test_a_dash_reads_standard_input(queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 1}\nbad\n')))
    ran = run("queue_publish", "noop", "-")
    assert ran.code == 1
    assert ran.err.startswith("<stdin>:2: ")
    assert bodies() == [{"n": 1}]


def test_over_a_broker_every_event_is_on_it_when_the_command_has_ended(
    sqlite_database: str, rabbit_vhost: str, tmp_path: Path, project_process: Callable[..., ProjectProcess]
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(1_234)))
    env = {"DATABASE_URL": sqlite_database, "QUEUE_URL": rabbit_vhost}
    process = project_process("queue_publish", "noop", "--file", str(path), env=env)
    assert process.wait(60) == 0, process.output
    admin = BrokerAdmin(parse_address(rabbit_vhost))
    wait_for(lambda: admin.depth("noop").ready == 1_234, 20, "all to be counted")


def test_a_pipe_into_a_real_process(sqlite_database: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "queue_publish", "noop", "-"],
        input=b'{"n": 1}\n{"n": 2}\n',
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": sqlite_database},
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"published 2\n", b"")


def test_usage_exits_with_2(sqlite_database: str, project_process: Callable[..., ProjectProcess]) -> None:
    wrong = [
        ("queue_publish",),
        ("queue_publish", "noop"),
        ("queue_publish", "noop", "{}", "--file", "f"),
        ("queue_publish", "noop", "{}", "--delay=-1"),
        ("queue_publish", "noop", "{}", "--delay=soon"),
    ]
    processes = [project_process(*arguments, env={"DATABASE_URL": sqlite_database}) for arguments in wrong]
    assert [process.wait(60) for process in processes] == [2] * len(wrong)
    assert not any("Traceback" in process.output for process in processes)


@pytest.fixture
def slow_pipe(sqlite_database: str) -> Iterator[subprocess.Popen[bytes]]:
    """``queue_publish noop -`` with a pipe that stays open."""
    with subprocess.Popen(
        [sys.executable, "manage.py", "queue_publish", "noop", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": sqlite_database},
        cwd=REPOSITORY,
    ) as process:
        yield process
        process.kill()


def test_lines_of_a_slow_pipe_are_not_held_until_it_ends(
    slow_pipe: subprocess.Popen[bytes], sqlite_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    assert slow_pipe.stdin is not None
    assert slow_pipe.stderr is not None
    slow_pipe.stdin.write(b'{"n": 1}\n{"n": 2}\n{"n": 3}\n{"n":')
    slow_pipe.stdin.flush()
    with django_db_blocker.unblock(), use_database(sqlite_database):
        wait_for(lambda: len(bodies()) == 3, 60, lambda: f"three events, not {bodies()}")
    slow_pipe.send_signal(signal.SIGINT)
    assert slow_pipe.wait(60) == 130
    said = slow_pipe.stderr.read().decode()
    assert said == "CommandError: stopped; published 3; 1 line read and not sent\n"


def test_in_immediate_mode_nothing_can_be_due_later(settings: Settings) -> None:
    settings.QUEUE_URL = "immediate://"
    ran = run("queue_publish", "noop", "{}", "--delay", "5")
    assert ran.code == 1
    assert "keeps what is due later in this process, which ends now; nothing was published" in ran.err

"""Standard output that cannot be written: told in one line, and in silence where the reader has had enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from pytest_django import DjangoDbBlocker

from tests.integration.failed import fail, states
from tests.servers.databases import use_database
from tests.servers.processes import REPOSITORY
from zerver.models import WaitingEvent

Run = Callable[..., tuple[int, str]]

_LOST = "CommandError: standard output cannot be written: "


@pytest.fixture
def run_into(sqlite_database: str) -> Run:
    """``run_into(stdout, command…)``: exit code, and what stood on standard error; buffered as Python does unasked."""

    def run(stdout: str, *arguments: str) -> tuple[int, str]:
        python = f"{sys.executable} manage.py"
        read, write = os.pipe()
        os.close(read)
        with open("/dev/full", "wb") as full:
            target = {"full": full.fileno(), "unread": write, "closed": None}[stdout]
            done = subprocess.run(
                ["sh", "-c", f'exec {python} "$@"{" >&-" if target is None else ""}', "sh", *arguments],
                stdout=target,
                stderr=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "DATABASE_URL": sqlite_database},
                cwd=REPOSITORY,
                text=True,
                timeout=60,
                check=False,
            )
        os.close(write)
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize(
    ("stdout", "problem"),
    [("full", "No space left on device"), ("unread", "nobody reads it any more"), ("closed", "it is closed")],
)
def test_what_was_published_is_told_all_the_same(
    run_into: Run, sqlite_database: str, django_db_blocker: DjangoDbBlocker, stdout: str, problem: str
) -> None:
    code, said = run_into(stdout, "queue_publish", "noop", "{}")
    with django_db_blocker.unblock(), use_database(sqlite_database):
        message_id = WaitingEvent.objects.get().message_id
    assert (code, said) == (
        1,
        f"{_LOST}{problem}; the event was published, under message id {message_id}\n",
    )


def test_what_was_replayed_and_deleted_is_told_all_the_same(
    run_into: Run, sqlite_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), use_database(sqlite_database):
        message_id = fail()
    code, said = run_into("full", "queue_failed", "replay", message_id, "--json")
    assert (code, said) == (1, f"{_LOST}No space left on device; replayed 1\n")
    code, said = run_into("full", "purge_queue", "noop", "--json")
    assert (code, said) == (1, f"{_LOST}No space left on device; deleted 1\n")
    with django_db_blocker.unblock(), use_database(sqlite_database):
        assert states() == {message_id: "replayed"}
        assert not WaitingEvent.objects.exists()


def test_a_table_that_cannot_be_written_is_a_failure_in_one_line(run_into: Run) -> None:
    assert run_into("full", "queue_list") == (1, f"{_LOST}No space left on device\n")
    assert run_into("closed", "queue_status", "--json") == (1, f"{_LOST}it is closed\n")


@pytest.mark.parametrize("arguments", [("queue_list", "--json"), ("queue_failed", "list")])
def test_a_reader_that_has_had_enough_is_left_in_silence(run_into: Run, arguments: tuple[str, ...]) -> None:
    assert run_into("unread", *arguments) == (0, "")


def test_a_doctor_whom_nobody_hears_out_has_his_exit_code_all_the_same(run_into: Run) -> None:
    assert run_into("unread", "queue_check", "--only", "workers") == (1, "")


def test_a_doctor_who_cannot_write_his_answer_has_given_none(run_into: Run) -> None:
    lost = f"{_LOST}No space left on device\n"
    assert run_into("full", "queue_check", "--only", "workers") == (3, lost)
    code, said = run_into("full", "queue_check", "--only", "workers", "--traceback")
    assert (code, said.endswith(lost)) == (3, True)


@pytest.fixture
def said_in(sqlite_database: str) -> Callable[..., bytes]:
    """``said_in(encoding, command…)``: what a command that ends well says where standard output has this encoding."""

    def run(encoding: str, *arguments: str) -> bytes:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            stdout=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "DATABASE_URL": sqlite_database, "PYTHONIOENCODING": encoding},
            cwd=REPOSITORY,
            timeout=60,
            check=True,
        ).stdout

    return run


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_what_an_encoding_does_not_have_is_written_with_what_it_has(
    said_in: Callable[..., bytes], encoding: str
) -> None:
    assert "      -  " in said_in(encoding, "queue_status", "noop").decode(encoding)
    assert "- stands where nothing can know" in " ".join(
        said_in(encoding, "queue_status", "--help").decode(encoding).split()
    )


def test_a_program_gets_the_same_document_in_any_encoding(
    said_in: Callable[..., bytes], sqlite_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    error = "Zoë – 😀"
    with django_db_blocker.unblock(), use_database(sqlite_database):
        message_id = fail(error=error)
    for command in (("list",), ("show", message_id)):
        said = said_in("ascii", "queue_failed", *command, "--json").decode("ascii")
        assert json.loads(said)["failed"][0]["error"] == error


def test_standard_input_that_is_closed_is_told(sqlite_database: str) -> None:
    for command, code, problem in (
        ("queue_publish noop -", 1, "standard input is closed: give lines to it, or --file F"),
        ("purge_queue --all", 2, "this is no terminal to ask at: give --noinput to go ahead"),
    ):
        done = subprocess.run(
            ["sh", "-c", f"exec {sys.executable} manage.py {command} <&-"],
            capture_output=True,
            env={"PATH": "/usr/bin:/bin", "DATABASE_URL": sqlite_database},
            cwd=REPOSITORY,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (code, "", f"CommandError: {problem}\n")


def test_help_that_nobody_reads_is_no_trouble(run_into: Run) -> None:
    assert run_into("unread", "queue_list", "--help")[1] == ""

"""queue_config: what it prints is what is declared, --check tells the difference, --write makes it."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from pathlib import Path

import pytest
from pytest_django import Settings
from supervisor.options import ServerOptions

from tests.integration.checkup import check
from tests.integration.commands import Ran, run
from zerver.deployment import normal_queues
from zerver.deployment.normal_queues import BEGIN, END
from zerver.lib.registry import queues
from zerver.management.commands.queue_config import EXIT_NO_ANSWER, Command

MANIFEST = f"class shop::base {{\n{BEGIN}  # of last year\n{END}  include shop::users\n}}\n"
LEDGER_FACTS = (
    "{ 'workers' => 1, 'threads' => 1, 'stop_seconds' => 45, 'timeout_seconds' => 30.0, "
    "'warn_seconds' => 30.0, 'crit_seconds' => 60.0 }"
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "base.pp"
    path.write_text(MANIFEST)
    return path


def listed(*arguments: str) -> Ran:
    return run("queue_config", "normal-queues", *arguments)


def test_the_list_is_of_queues_that_workers_should_be_at_with_what_is_declared_of_them() -> None:
    out = listed().out
    assert out.index("    'ledger',\n") < out.index("    'ledger_batch',\n")
    assert f"    'ledger' => {LEDGER_FACTS},\n" in out
    assert "'zerver_dead'" in out
    assert "'noop'" not in out, "a test queue"
    assert "'ledger_disabled'" not in out


def test_the_list_is_the_same_whatever_the_environment_of_its_writer_overrides(three_workers: None) -> None:
    overridden = listed().out
    queues.apply_overrides({"ledger": {"enabled": False}, "ledger_batch": {"is_test_queue": True}})
    assert listed().out == overridden
    queues.apply_overrides({})
    assert listed().out == overridden
    assert "    'ledger',\n" in overridden


def test_writing_changes_what_stands_between_the_marks_and_nothing_else(manifest: Path) -> None:
    assert listed("--write", f"--file={manifest}") == Ran(code=0, out=f"{manifest}: written\n", err="")
    written = manifest.read_text()
    assert written == MANIFEST.replace(f"{BEGIN}  # of last year\n{END}", listed().out)
    again = listed("--write", f"--file={manifest}")
    assert again.out == f"{manifest}: as declared\n"
    assert listed("--check", f"--file={manifest}").code == 0


def test_a_list_that_differs_is_shown_and_is_a_failure(manifest: Path) -> None:
    listed("--write", f"--file={manifest}")
    text = manifest.read_text().replace("    'ledger_batch',\n", "")
    manifest.write_text(text.replace("'ledger' => { 'workers' => 1", "'ledger' => { 'workers' => 4"))
    ran = listed("--check", f"--file={manifest}")
    assert ran.code == 1
    assert "+    'ledger_batch',\n" in ran.out
    assert f"+    'ledger' => {LEDGER_FACTS},\n" in ran.out
    assert "does not say what is declared: the same command with --write mends it" in ran.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "is not there; name another with --file"),
        ("class shop::base {\n}\n", "it has no place for the list: put the lines '# begin: "),
        (f"{BEGIN}\n{BEGIN}{END}", "it has no place for the list"),
    ],
)
def test_a_manifest_that_has_no_place_for_the_list_is_left_as_it_is(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "base.pp"
    if text is not None:
        path.write_text(text)
    for how, code in (("--write", 1), ("--check", 3)):
        ran = listed(how, f"--file={path}")
        assert ran.code == code
        assert problem in ran.err
        assert text is None or path.read_text() == text


def test_with_a_module_that_does_not_import_nothing_is_written(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(queues.broken_modules, "shop.queue_processors", "KeyError: 'SHOP'")
    for how, code in (("--write", 1), ("--check", 3)):
        ran = listed(how, f"--file={manifest}")
        assert ran.code == code
        assert "shop.queue_processors failed to import (KeyError: 'SHOP')" in ran.err
        assert manifest.read_text() == MANIFEST


def test_supervisors_programs_please_the_doctor(tmp_path: Path, three_workers: None) -> None:
    path = tmp_path / "shop.conf"
    for mode in (["--multiprocess"], ["--multi-threaded"]):
        arguments = ["--name=shop", "--directory=/srv/shop", "--user=shop", *mode]
        assert run("queue_config", "supervisor", "--write", f"--file={path}", *arguments).code == 0
        assert run("queue_config", "supervisor", "--check", f"--file={path}", *arguments).code == 0
        ran = check("--only", "supervisor", f"--supervisor-config={path}")
        assert (ran.code, ran.json["findings"]) == (0, [])


def test_a_host_with_little_memory_gets_one_process_and_a_change_is_told(tmp_path: Path) -> None:
    path = tmp_path / "shop.conf"
    write = ("queue_config", "supervisor", "--name=shop", f"--file={path}", "--write", "--worker-mb=1")
    needed_mb = run("queue_config", "supervisor", "--multiprocess", "--no-scheduler").out.count("[program:")
    ran = run(*write, f"--memory-mb={2 * needed_mb - 1}")
    assert "process_queue --multi_threaded " in path.read_text()
    assert ran.err.startswith(
        f"{path}: one process for all queues, a thread for each worker (--multiprocess and "
    )
    # At the edge it stays as it is.
    assert run(*write, f"--memory-mb={2 * needed_mb}").err == ""
    assert "process_queue --multi_threaded " in path.read_text()
    assert (
        "a process for each worker; until now it was not so ("
        in run(*write, f"--memory-mb={3 * needed_mb}").err
    )
    assert "process_queue --multi_threaded " not in path.read_text()
    assert run(*write, f"--memory-mb={2 * needed_mb}").err == ""
    assert run(*write, f"--memory-mb={needed_mb}").err.startswith(f"{path}: one process for all queues")
    assert "a process for each worker; until now" in run(*write[:-1], "--multiprocess").err


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "two", "\u0663"])
def test_memory_that_is_no_number_of_mb_is_wrong_usage(value: str) -> None:
    for option in ("--memory-mb", "--worker-mb"):
        err = run("queue_config", "supervisor", f"{option}={value}").err
        assert f"argument {option}: {value!r} is no whole number above 0" in err


def test_what_is_not_given_of_a_site_follows_from_its_name() -> None:
    section = run("queue_config", "supervisor", "--name=shop", "--multiprocess").out.partition("\n\n")[2]
    assert (
        "/home/shop/deployments/current/.venv/bin/python /home/shop/deployments/current/manage.py" in section
    )
    assert '\nuser=shop\nenvironment=HOME="/home/shop",USER="shop"\n' in section
    assert "stdout_logfile=/var/log/shop/events_" in section
    assert "zulip" not in section


def test_a_queue_with_several_workers_has_numbered_processes(three_workers: None) -> None:
    out = run("queue_config", "supervisor", "--multiprocess").out
    [section] = [part for part in out.split("\n\n") if part.startswith("[program:zulip_events_ledger]\n")]
    assert "process_queue --queue=ledger --worker_num=%(process_num)s\n" in section
    assert "process_name=zulip_events_ledger_worker%(process_num)s\nnumprocs=3\nnumprocs_start=1\n" in section
    assert "stopwaitsecs=115\n" in section
    assert "stdout_logfile=/var/log/zulip/events_ledger_worker%(process_num)s.log\n" in section


def test_supervisord_reads_what_is_accepted_as_it_was_meant(tmp_path: Path, three_workers: None) -> None:
    directory = tmp_path / "a,b=c:d~e+f@g"
    (directory / "log").mkdir(parents=True)
    variables = {
        "EMPTY": "",
        "LIST": "b c,d=e,F=g",
        "COMMENTS": ";a;b#c",
        "HASH": "#",
        "SECTION": "[program:x]",
        "SPACES": "  a  b:  ",
        "UMLAUT": "ä–☃",
        "SHELL": "a && b | c > d * ? ~ ! {e} <f>",
    }
    path = tmp_path / "shop.conf"
    arguments = (
        *(f"--file={path}", f"--user={getpass.getuser()}", f"--home={directory}", f"--directory={directory}"),
        f"--log-directory={directory / 'log'}",
        *(f"--environment={name}={value}" for name, value in variables.items()),
    )
    for mode in (["--multiprocess"], ["--multi-threaded"]):
        assert run("queue_config", "supervisor", "--write", *arguments, *mode).code == 0
        path.write_text("[supervisord]\n" + path.read_text(), encoding="utf-8")
        options = ServerOptions()
        options.realize(["-c", str(path), "-n"])
        processes = [process for group in options.process_group_configs for process in group.process_configs]
        assert processes
        for process in processes:
            expected = {"HOME": str(directory), "USER": getpass.getuser(), **variables}
            assert process.environment == expected
            assert process.directory == str(directory)
            assert shlex.split(process.command)[3] == f"{directory}/manage.py"
            assert process.stdout_logfile.startswith(
                (f"{directory}/log/events", f"{directory}/log/scheduler")
            )


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--name=Shop", "name 'Shop': use lower-case letters"),
        ("--directory=srv/shop", "directory 'srv/shop': give an absolute path"),
        ("--directory=/srv/my shop", "directory '/srv/my shop': give an absolute path of letters, digits"),
        ("--python=/srv/100%/python", "give an absolute path of letters, digits"),
        ("--python=/opt/a;b", "give an absolute path of letters, digits"),
        ("--nice=20", "nice '20': give a number from -20 to 19"),
        ("--environment=2ND=x", "environment variable '2ND': use letters, digits and _"),
        ('--environment=A="x"', "environment variable 'A': its value has a quote"),
        ("--environment=A=%(ENV_HOME)s", "environment variable 'A': its value has a quote, %"),
        ("--environment=QUEUE_URL=amqp://shop:s3cret@rabbit/", "'QUEUE_URL': it holds a secret"),
        ("--environment=QUEUE_URL=amqp://shop:s3cret%40x@rabbit/", "'QUEUE_URL': it holds a secret"),
        ("--environment=QUEUE_URL=amqp://shop:p/s3cret@rabbit/", "'QUEUE_URL': it holds a secret"),
        ("--environment=PGPASSWORD=s3cret", "'PGPASSWORD': it holds a secret"),
        ("--environment=AWS_SECRET_ACCESS_KEY=s3cret", "'AWS_SECRET_ACCESS_KEY': it holds a secret"),
        ("--environment=DJANGO_SECRET_KEY=s3cret", "'DJANGO_SECRET_KEY': it holds a secret"),
        ("--environment=sentry_token=s3cret", "'sentry_token': it holds a secret"),
        ("--environment=QUEUE_BODY_KEYS=s3cret", "'QUEUE_BODY_KEYS': it holds a secret"),
        ("--environment=DATABASE_URL=postgres://db/shop?user=a&password=s3cret", "'DATABASE_URL': it holds"),
        ("--environment=STRIPE_API_KEY=s3cret", "'STRIPE_API_KEY': it holds a secret"),
        ("--environment=DB_PASS=s3cret", "'DB_PASS': it holds a secret"),
        ("--environment=A=s3cret ;x", "'A': its value has a ; or # after a space"),
        ("--environment=A=s3cret\u00a0#x", "'A': its value has a ; or # after a space"),
        ("--environment=A=s3cret\tx", "'A': its value has a quote, %, $, a backslash, a tab"),
        ("--directory=/srv/my\tshop", "give an absolute path of letters, digits"),
        ("--environment=A=s3cret%", "'A': its value has a quote, %"),
    ],
)
def test_what_no_configuration_could_carry_is_refused(argument: str, problem: str) -> None:
    ran = run("queue_config", "supervisor", argument)
    assert (ran.code, ran.out) == (1, "")
    assert problem in ran.err
    assert "s3cret" not in ran.err


def test_what_only_a_choice_by_memory_asks_for_is_refused_beside_a_mode_that_was_given() -> None:
    ran = run("queue_config", "supervisor", "--multiprocess", "--memory-mb=100")
    assert (ran.code, ran.out) == (2, "")
    assert "--memory-mb and --worker-mb are for the choice by memory" in ran.err


def test_a_name_that_would_lead_elsewhere_is_refused() -> None:
    ran = run("queue_config", "declarations", "--name=../../x y", "--write")
    assert (ran.code, "use lower-case letters" in ran.err) == (1, True)


def test_a_new_file_is_for_all_to_read_and_one_that_is_there_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "queues.json"
    write = ("queue_config", "declarations", "--write", f"--file={path}")
    before = os.umask(0o077)
    try:
        assert run(*write).code == 0
        assert path.stat().st_mode & 0o777 == 0o644
        path.write_text("of last year")
        path.chmod(0o600)
        assert run(*write).code == 0
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_this_environment_says_and_the_file_would_not_is_told_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUEUE_PASSWORD_FILE", "/etc/shop/s3cret")
    ran = run("queue_config", "supervisor", "--multiprocess")
    assert "QUEUE_PASSWORD_FILE is of this environment alone: --environment=QUEUE_PASSWORD_FILE=" in ran.err
    assert "s3cret" not in ran.err + ran.out
    told = run(
        "queue_config", "supervisor", "--multiprocess", "--environment=QUEUE_PASSWORD_FILE=/etc/shop/p"
    )
    assert "QUEUE_PASSWORD_FILE" not in told.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ("normal-queues", "--check"),
            "base.pp is not there: it comes with the module puppet/ of zerver's source",
        ),
        (
            ("supervisor", "--write", "--file={}/none/shop.conf"),
            "none/shop.conf cannot be written: No such file",
        ),
        (("supervisor", "--write", "--file={}/none/shop.conf"), "make its directory first"),
        (("supervisor", "--check", "--file={}/binary"), "binary is no text, and so no file of ours"),
    ],
)
def test_a_place_that_does_not_fit_is_told_with_its_mend(
    tmp_path: Path, settings: Settings, arguments: tuple[str, ...], problem: str
) -> None:
    settings.BASE_DIR = tmp_path
    (tmp_path / "binary").write_bytes(b"\xff")
    ran = run("queue_config", *(argument.format(tmp_path) for argument in arguments))
    assert ran.code in (1, EXIT_NO_ANSWER)
    assert problem in ran.err
    assert ".new" not in ran.err


def test_a_check_that_could_not_tell_is_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "shop.conf"
    check_it = ("queue_config", "supervisor", "--check", f"--file={path}")
    assert run(*check_it).code == 1, "the file is not there: its programs are not"
    assert run(*check_it, "--name=Shop").code == 3
    path.write_bytes(b"\xff")
    assert run(*check_it).code == 3


def test_a_traceback_is_no_difference(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(normal_queues, "written_into")
    argv = ["manage.py", "queue_config", "normal-queues", "--check", f"--file={manifest}"]
    with pytest.raises(SystemExit) as end:
        Command().run_from_argv(argv)
    assert end.value.code == EXIT_NO_ANSWER


def test_a_reader_that_has_gone_does_not_make_a_difference_a_success(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as lost:
        monkeypatch.setattr(sys, "stdout", lost)
        with pytest.raises(SystemExit) as end:
            Command().run_from_argv(
                ["manage.py", "queue_config", "normal-queues", "--check", f"--file={manifest}"]
            )
    assert end.value.code == 1


def test_a_file_that_nothing_is_done_with_is_wrong_usage(manifest: Path) -> None:
    ran = listed(f"--file={manifest}")
    assert (ran.code, ran.out) == (2, "")
    assert "--file is of --check and --write: give one of them" in ran.err


def test_a_variable_may_name_the_file_of_a_secret_and_an_address_without_a_password() -> None:
    out = run(
        *("queue_config", "supervisor", "--environment=QUEUE_PASSWORD_FILE=/etc/shop/rabbitmq"),
        *(
            "--environment=QUEUE_BODY_KEYS_FILE=/etc/shop/keys",
            "--environment=QUEUE_URL=amqp://shop@rabbit:5672/",
        ),
    ).out
    assert 'QUEUE_PASSWORD_FILE="/etc/shop/rabbitmq",QUEUE_URL="amqp://shop@rabbit:5672/",USER=' in out
    assert 'QUEUE_BODY_KEYS_FILE="/etc/shop/keys",' in out


def test_a_variable_without_a_value_is_wrong_usage_and_is_not_shown() -> None:
    err = run("queue_config", "supervisor", "--environment=s3cret").err
    assert "argument --environment: give NAME=VALUE" in err
    assert "s3cret" not in err

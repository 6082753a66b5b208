"""queue_restart where there is nothing that it could, or should, restart; supervisord is real."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import pytest
from pytest_django import DjangoDbBlocker

from tests.integration.commands import Ran, run
from tests.integration.rabbit import declaration, open_transport, skip_from_4_3
from tests.integration.test_rabbit_consumer_timeout import declare_with_timeout
from tests.servers.databases import use_database
from tests.servers.processes import REPOSITORY
from tests.servers.rabbitmq import RabbitServer
from tests.servers.renamed import Renamed
from tests.servers.supervisord import Supervisord
from tests.wait import wait_for
from zerver.models import WorkerProcess

#: It does nothing, and says the words of a worker.
IDLE = f'{sys.executable} -c "import time; time.sleep(600)" process_queue --queue=ledger'

#: How long a worker may be away where it is told sooner that it does not come; no machine is so busy.
AWAY_SECONDS = 600

Start = Callable[..., Supervisord]


@pytest.fixture
def start(tmp_path: Path, sqlite_database: str, django_db_blocker: DjangoDbBlocker) -> Iterator[Start]:
    """``start("[program:x]…", login="user:password")``: a supervisord; this process has the same database."""
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        stack.enter_context(use_database(sqlite_database))

        def begin(programs: str = "", login: str = "", **env: str) -> Supervisord:
            (tmp_path / "conf.d").mkdir()
            (tmp_path / "conf.d/programs.conf").write_text(dedent(programs))
            return stack.enter_context(Supervisord(programs=tmp_path / "conf.d", env=env, login=login))

        yield begin


def restart(supervisord: Supervisord, *arguments: str) -> Ran:
    return run("queue_restart", f"--supervisor-config={supervisord.config}", *arguments)


def seconds_waited(told: str) -> int:
    found = re.search(r"does not consume again: after (\d+) s ", told)
    assert found is not None, told
    return int(found[1])


def test_a_supervisord_without_workers_is_told_of(start: Start) -> None:
    supervisord = start(f"[program:web]\ncommand={sys.executable} -c 'import time; time.sleep(600)'\n")
    ran = restart(supervisord)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(
        "supervisord runs no process_queue: ./manage.py queue_config makes its configuration"
    )


def test_a_process_that_the_database_does_not_know_is_left_alone(start: Start) -> None:
    supervisord = start(f"[program:other]\ncommand={IDLE}\nstartsecs=0\n")
    before = supervisord.pids()
    ran = restart(supervisord, "--timeout=1")
    assert ran.code == 1
    assert f"other: this database knows no process {before['other']}; run this with the settings" in ran.err
    assert "runs no worker of default, django_mail, incoming_webhooks" in ran.err
    assert restart(supervisord, "--name=shop").err.startswith("supervisord runs no process_queue called shop")
    assert supervisord.pids() == before


def test_a_worker_behind_a_shell_is_not_restarted(start: Start) -> None:
    supervisord = start(
        "[program:wrapped]\ncommand=sh -c 'sleep 600; : process_queue --queue=ledger'\n"
        "startsecs=0\nstopasgroup=true\n"
    )
    before = supervisord.pids()
    ran = restart(supervisord)
    assert ran.code == 1
    assert "wrapped: its command is a shell's, which would end and leave the worker; write exec" in ran.err
    assert supervisord.pids() == before


def test_of_several_projects_the_scheduler_of_the_one_that_is_named_is_restarted(start: Start) -> None:
    idle = f'{sys.executable} -c "import time; time.sleep(600)" queue_scheduler'
    programs = "".join(
        f"[program:{name}_scheduler]\ncommand={idle}\nstartsecs=0\nautorestart=true\n"
        for name in ("shop", "other")
    )
    supervisord = start(programs)
    wait_for(lambda: None not in supervisord.pids().values(), 20, "both to run")
    before = supervisord.pids()
    ran = restart(supervisord, "--name=shop")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "1 of 1: shop_scheduler (schedules)")
    assert ran.out.endswith("\nshop_scheduler restarted, and running\n")
    after = supervisord.pids()
    assert {name for name in before if before[name] != after[name]} == {"shop_scheduler"}
    unknown = restart(supervisord, "--queue=ledger")
    assert "--queue: supervisord runs no worker of queue 'ledger'" in unknown.err
    assert supervisord.pids() == after


def test_a_program_that_was_given_up_is_told_of_at_the_end(start: Start) -> None:
    supervisord = start(
        "[program:broken]\ncommand=false process_queue --queue=ledger\nstartretries=0\n"
        "[program:idle]\ncommand=true process_queue --queue=ledger_other\nautostart=false\n"
    )
    wait_for(lambda: supervisord.status()["broken"][0] == "FATAL", 20, "it to be given up")
    ran = restart(supervisord)
    assert (ran.code, ran.out) == (1, "")
    assert "broken (queue ledger) does not run: FATAL, Exited too quickly" in ran.err
    assert "idle (queue ledger_other) is stopped, and stays so: STOPPED, Not started" in ran.err
    assert "supervisord has given up broken; mend that; supervisorctl -c " in ran.err.splitlines()[-1]
    assert supervisord.status()["idle"][0] == "STOPPED"


def test_a_program_that_supervisord_does_not_start_anew_is_started(
    start: Start, sqlite_database: str
) -> None:
    """Written by hand, with supervisord's own defaults."""
    supervisord = start(
        f"[program:noop]\ncommand={sys.executable} {REPOSITORY}/manage.py process_queue --queue=noop\n",
        DATABASE_URL=sqlite_database,
        DJANGO_SETTINGS_MODULE="tests.settings",
    )
    wait_for(lambda: supervisord.status()["noop"][0] == "RUNNING", 30, "it to run")
    before = supervisord.pids()
    ran = restart(supervisord)
    assert ran.code == 0, ran.err
    assert supervisord.status()["noop"][0] == "RUNNING"
    assert supervisord.pids() != before


@pytest.mark.parametrize("setting", ["autorestart=true\nstartsecs=5", "startsecs=0"])
def test_of_a_worker_that_ends_again_and_again_the_reason_is_told_before_its_time_is_over(
    start: Start, sqlite_database: str, rabbit_vhost: str, setting: str
) -> None:
    """By the usual settings, and by some of which supervisord takes every process for one that runs."""
    supervisord = start(
        f"[program:noop]\ncommand={sys.executable} {REPOSITORY}/manage.py process_queue --queue=noop\n"
        f"startretries=1000000\n{setting}\n",
        DATABASE_URL=sqlite_database,
        DJANGO_SETTINGS_MODULE="tests.settings",
        QUEUE_URL=rabbit_vhost,
    )
    running = WorkerProcess.objects.filter(queue="noop", state="running")
    wait_for(running.exists, 30, "it to run")
    otherwise = declaration("noop", queue_type="classic")
    with open_transport(rabbit_vhost, queue_type="classic") as transport:
        transport.admin.delete_queue("noop")
        transport.check_queue(otherwise)

    ran = restart(supervisord, f"--timeout={AWAY_SECONDS}")

    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert seconds_waited(last) < AWAY_SECONDS
    assert (
        "3 worker processes ended, the last saying: cannot start: queue 'noop' exists on the broker" in last
    )
    assert "./manage.py queue_admin migrate noop; mend that; supervisorctl -c" in last
    assert supervisord.status()["noop"][0] not in ("STOPPED", "FATAL")


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        # It leaves a word for each of its queues.
        ("ledger_other", "; 3 worker processes ended, the last saying: cannot start: queue 'ledger"),
        ("ledger_batch", " s queue ledger: cannot start: queue 'ledger': the broker takes events away after"),
    ],
    ids=["which ends", "which goes on for its other queue"],
)
def test_a_process_of_several_queues_is_waited_for_no_longer_once_it_has_said_what_it_does_not_run(
    start: Start,
    sqlite_database: str,
    rabbit_server: RabbitServer,
    rabbit_vhost: str,
    other: str,
    problem: str,
) -> None:
    skip_from_4_3(rabbit_server, "the argument is one to be compared with the declaration's")
    for name in ("ledger", "ledger_other"):
        declare_with_timeout(rabbit_vhost, name, 1)
    with Renamed(rabbit_server.port, rabbit_server.version, "3.12.8") as heeding_timeouts:
        supervisord = start(
            f"[program:several]\nstartretries=1000000\nautorestart=true\nstartsecs=5\n"
            f"command={sys.executable} {REPOSITORY}/manage.py process_queue --multi_threaded ledger {other}\n",
            DATABASE_URL=sqlite_database,
            DJANGO_SETTINGS_MODULE="tests.settings",
            QUEUE_URL=heeding_timeouts.through(rabbit_vhost),
            QUEUE_MANAGEMENT_URL=rabbit_server.management_url,
        )
        wait_for(WorkerProcess.objects.filter(queue=other).exists, 60, "it to be known")

        ran = restart(supervisord, f"--timeout={AWAY_SECONDS}")

        assert ran.code == 1
        last = ran.err.splitlines()[-1]
        assert problem in last
        assert seconds_waited(last) < AWAY_SECONDS


def test_a_login_that_supervisord_refuses_is_told_without_its_password(start: Start) -> None:
    supervisord = start(login="admin:s3cret")
    assert "runs no process_queue" in restart(supervisord).err
    text = supervisord.config.read_text()
    supervisord.config.write_text(
        text.partition("[supervisorctl]")[0] + _control(supervisord, "password=wr0ng")
    )
    ran = restart(supervisord)
    assert ran.code == 1
    assert "it answers 401 Unauthorized; mend username and password of [supervisorctl] in" in ran.err
    assert "wr0ng" not in ran.err
    supervisord.config.write_text(text)


def test_a_supervisord_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    config = tmp_path / "supervisord.conf"
    config.write_text("[supervisorctl]\nserverurl=unix://%(here)s/s\n")
    ran = run("queue_restart", f"--supervisor-config={config}")
    assert ran.code == 1
    assert ran.err.startswith(f"supervisord at unix://{tmp_path}/s: it does not answer: ")
    assert (
        f"start it, or name the configuration that it runs with by --supervisor-config ({config}?)" in ran.err
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "it cannot be read: No such file or directory; name supervisord's configuration with"),
        ("[supervisord]\n", "it has no serverurl in a section [supervisorctl]; add it"),
        ("password=s3cret\n", "it cannot be read: MissingSectionHeaderError"),
        ("[supervisorctl]\nserverurl=ftp://x/\n", "its address is neither unix:///PATH nor http://HOST:PORT"),
    ],
)
def test_a_configuration_that_tells_no_address_is_told_of(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    config = tmp_path / "supervisord.conf"
    if text is not None:
        config.write_text(text)
    ran = run("queue_restart", f"--supervisor-config={config}")
    assert ran.code == 1
    assert problem in ran.err
    assert str(config) in ran.err
    assert "s3cret" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["--systemd", "-c", "/etc/x"],
            "--supervisor-config is of supervisord, and --systemd says that it is not",
        ),
        (["--timeout=0"], "argument --timeout: '0' is no number of seconds above 0"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(arguments: list[str], problem: str) -> None:
    ran = run("queue_restart", *arguments)
    assert ran.code
    assert problem in ran.err


def _control(supervisord: Supervisord, password: str) -> str:
    return f"[supervisorctl]\nserverurl=unix://{supervisord.directory}/s\nusername=admin\n{password}\n"

"""queue_check, on supervisord's configuration files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.checkup import check, of, only
from tests.integration.commands import Ran
from zerver.lib.registry import queues
from zerver.monitoring.checkup import programs

#: As docs/supervise.md writes it.
GOOD = """
[program:shop-ledger]
command=/srv/venv/bin/python /srv/manage.py process_queue --queue=ledger --worker_num=%(process_num)d
process_name=%(program_name)s-%(process_num)d
numprocs={numprocs}
numprocs_start=1
autorestart=true
stopwaitsecs=60 ; enough
killasgroup=true
environment=QUEUE_URL="amqp://guest:s3cret-of-mine@rabbit/"
"""
REST = """
[program:shop-rest]
command=env QUEUE_URL=amqp://guest:s3cret-of-mine@rabbit/ python manage.py process_queue --all
autorestart=true
stopwaitsecs=60
killasgroup=true
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_it(text: str, name: str = "shop.conf") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_it


@pytest.fixture
def two_workers() -> Iterator[None]:
    queues.apply_overrides({"ledger": {"workers": 2}})
    yield
    queues.apply_overrides({})


def of_file(*paths: Path) -> Ran:
    ran = check("--only", "supervisor", *(f"--supervisor-config={path}" for path in paths))
    assert "s3cret" not in ran.out + ran.err
    return ran


def test_one_process_for_all_of_them_is_clean(write: Write) -> None:
    assert (of_file(write(REST)).code, of_file(write(REST)).json["findings"]) == (0, [])


def test_a_scheduler_is_no_worker_and_nobody_s_business_here(write: Write) -> None:
    path = write(
        f"{REST}\n[program:shop_scheduler]\ncommand=python manage.py queue_scheduler\nautorestart=false\n"
    )
    assert of_file(path).json["findings"] == []


def test_a_normal_queue_that_no_program_runs_is_told(write: Write) -> None:
    ran = of_file(write(GOOD.format(numprocs=1)))
    assert of(ran, "supervisor.no-program", "ledger") == []
    assert "--queue=ledger_other" in only(ran, "supervisor.no-program", "ledger_other")["mend"]
    for not_meant in ("ledger_disabled", "ledger_hidden", "zerver_dead"):
        assert of(ran, "supervisor.no-program", not_meant) == []
    assert ran.code == 1


@pytest.mark.parametrize(("numprocs", "is_told"), [(1, True), (2, False), (3, True)])
def test_processes_are_counted_against_the_declaration(
    write: Write, two_workers: None, numprocs: int, is_told: bool
) -> None:
    found = of(of_file(write(GOOD.format(numprocs=numprocs))), "supervisor.processes", "ledger")
    assert bool(found) is is_told
    if is_told:
        assert f"by its programs: {numprocs}; by its declaration: 2" in found[0]["what"]


def test_a_program_without_a_process_is_told(write: Write) -> None:
    ran = of_file(write(GOOD.format(numprocs=0)))
    found = only(ran, "supervisor.no-process", "ledger")
    assert (found["what"], found["severity"]) == ("numprocs is 0", "warning")
    assert of(ran, "supervisor.no-program", "ledger"), "nobody takes its events either"


def test_a_process_of_many_queues_has_as_many_workers_as_they_declare(
    write: Write, two_workers: None
) -> None:
    assert of(of_file(write(REST)), "supervisor.processes") == []
    both = write(GOOD.format(numprocs=2) + REST)
    assert "by its programs: 4" in only(of_file(both), "supervisor.processes", "ledger")["what"]


def test_a_program_of_a_queue_that_nobody_declares_is_a_problem(write: Write) -> None:
    path = write(GOOD.format(numprocs=1).replace("--queue=ledger", "--queue_name bygone"))
    ran = of_file(path)
    found = only(ran, "supervisor.unknown-queue", "bygone")
    assert found["where"] == f"{path} [program:shop-ledger]"
    assert ran.code == 2


def test_a_stop_that_does_not_wait_for_a_handler_is_told(write: Write) -> None:
    short = GOOD.format(numprocs=1).replace("stopwaitsecs=60 ; enough", "stopwaitsecs=44")
    found = only(of_file(write(short)), "supervisor.stopwaitsecs", "ledger")
    assert "stopwaitsecs is 44" in found["what"]
    assert found["mend"].startswith("stopwaitsecs=45;")
    enough = GOOD.format(numprocs=1).replace("60 ; enough", "45")
    assert of(of_file(write(enough)), "supervisor.stopwaitsecs") == []
    # Supervisor's default is 10.
    assert of(of_file(write(REST.replace("stopwaitsecs=60\n", ""))), "supervisor.stopwaitsecs")


def test_a_program_that_does_not_start_its_worker_again_is_told(write: Write) -> None:
    path = write(GOOD.format(numprocs=1).replace("autorestart=true\n", ""))
    assert "autorestart is unexpected" in only(of_file(path), "supervisor.autorestart")["what"]


def test_a_group_that_is_left_behind_is_told(write: Write) -> None:
    path = write(REST.replace("killasgroup=true\n", ""))
    assert only(of_file(path), "supervisor.killasgroup")["mend"].startswith("killasgroup=true")
    # stopasgroup implies it.
    assert of(of_file(write(REST.replace("killasgroup", "stopasgroup"))), "supervisor.killasgroup") == []


@pytest.mark.parametrize(
    ("command", "options", "is_told"),
    [
        ("sh -c 'cd /srv && python manage.py process_queue --all'", "", True),
        ("/bin/bash -c 'exec python manage.py process_queue --all'", "", False),
        ("sh -c 'cd /srv && python manage.py process_queue --all'", "stopasgroup=true\n", False),
    ],
)
def test_a_shell_that_keeps_the_signal_to_itself_is_told(
    write: Write, command: str, options: str, is_told: bool
) -> None:
    text = f"[program:all]\ncommand={command}\nautorestart=true\nstopwaitsecs=60\nkillasgroup=true\n{options}"
    ran = of_file(write(text))
    assert bool(of(ran, "supervisor.stopasgroup")) is is_told
    assert of(ran, "supervisor.no-program") == []


def test_processes_of_one_number_are_told(write: Write, two_workers: None) -> None:
    path = write(GOOD.format(numprocs=2).replace("%(process_num)d\nprocess", "1\nprocess"))
    assert (
        "2 worker processes of queue ledger are number 1"
        in (only(of_file(path), "supervisor.same-number", "ledger")["what"])
    )


def test_what_a_file_includes_and_a_directory_holds_is_read_once(write: Write, tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    main = write("[supervisord]\n[include]\nfiles = conf.d/*.conf %(here)s/conf.d/rest.conf\n", "main.conf")  # type: ignore[call-arg]
    (tmp_path / "conf.d" / "rest.conf").write_text(REST)
    assert of_file(main).json["findings"] == []
    assert of_file(main, tmp_path / "conf.d").json["findings"] == []


def test_a_file_that_cannot_be_read_is_a_problem_and_quotes_nothing(write: Write, tmp_path: Path) -> None:
    ran = of_file(tmp_path / "nowhere.conf")
    assert "No such file" in only(ran, "supervisor.unreadable")["what"]
    path = write("QUEUE_URL=amqp://guest:s3cret-of-mine@rabbit/\n[program:x]\n")
    assert only(of_file(path), "supervisor.unreadable")["where"] == str(path)
    (tmp_path / "empty").mkdir()
    found = only(of_file(tmp_path / "empty"), "supervisor.unreadable")
    assert found["what"] == "it cannot be read: no *.conf is in it"
    (tmp_path / "latin.conf").write_bytes(b"[program:x]\ncommand=\xff\n")
    assert only(of_file(tmp_path / "latin.conf"), "supervisor.unreadable")


def test_where_there_is_no_supervisor_nothing_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(programs, "USUAL_FILES", (str(tmp_path / "supervisord.conf"),))
    monkeypatch.setattr(programs, "USUAL_DIRECTORY", str(tmp_path / "conf.d"))
    (tmp_path / "conf.d").mkdir()
    ran = check("--only", "supervisor")
    assert (ran.code, ran.json["not_looked_at"][0]["source"]) == (0, "supervisor")
    assert "no configuration in the usual places" in ran.json["not_looked_at"][0]["what"]
    (tmp_path / "supervisord.conf").write_text("[program:web]\ncommand=gunicorn shop.wsgi\n")
    ran = check("--only", "supervisor")
    assert ran.code == 0
    assert "no program there runs process_queue" in ran.json["not_looked_at"][0]["what"]
    (tmp_path / "supervisord.conf").write_text(GOOD.format(numprocs=1))
    assert of(check("--only", "supervisor"), "supervisor.no-program", "ledger_other")


def test_what_is_put_into_a_command_is_known(
    write: Write, monkeypatch: pytest.MonkeyPatch, two_workers: None
) -> None:
    monkeypatch.setitem(os.environ, "LEDGER", "ledger")
    text = GOOD.format(numprocs=2).replace("--queue=ledger", "--queue %(ENV_LEDGER)s")
    ran = of_file(write(text))
    assert of(ran, "supervisor.no-program", "ledger") == []
    assert of(ran, "supervisor.processes", "ledger") == []
    # What is not known here is left as it is, and so are signs that mean nothing.
    odd = text.replace("%(ENV_LEDGER)s", "ledger --unknown=%(ENV_NONESUCH)s 'it")
    assert of(of_file(write(odd)), "supervisor.no-program", "ledger") == []

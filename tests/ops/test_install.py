"""A stranger installs the package and does what the README says, to the letter.

``pip install .`` is run for real, on a copy of what git does not ignore and in an empty virtual environment. The
package's requirements are not downloaded: those that it names, and those that they name, are linked in from the
environment that runs the tests, and nothing else is. So it costs seconds, and a requirement that nobody declared is
found missing.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.ops.documents import blocks, section, write_files
from tests.servers import spawn
from tests.servers.processes import REPOSITORY, clean_environment
from tests.wait import wait_for

README = (REPOSITORY / "README.md").read_text()
HOW_TO = section(README, "A worker in your own project")

#: Needed to build the package, and gone again before it is used.
_BUILD_REQUIREMENT = "setuptools"


class Environment:
    """An empty virtual environment, and what is run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # --without-pip saves seconds: the pip of the environment that runs the tests works for others too.
        command = [sys.executable, "-m", "venv", "--without-pip", str(path)]
        subprocess.run(command, check=True, env=_clean_environ())
        self.python = path / "bin" / "python"
        self.site = next((path / "lib").glob("python3*/site-packages"))
        self.environ = _clean_environ() | {
            "PATH": f"{path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }

    def link(self, name: str) -> list[Path]:
        """Make an installed distribution importable here too. Shape: what was linked."""
        found = distribution(name)
        assert found.files is not None, f"{name} does not say which files it has"
        tops = {file.parts[0] for file in found.files} - {"..", "__pycache__"}
        links = [self.site / top for top in tops if not (self.site / top).exists()]
        for link in links:
            link.symlink_to(Path(str(found.locate_file(link.name))))
        return links

    def run(self, command: Sequence[str], cwd: Path) -> str:
        """Standard output; the command must succeed, without a warning."""
        result = subprocess.run(
            command,
            cwd=cwd,
            env=self.environ | {"PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
        return result.stdout


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree without what git ignores: in a fresh clone, what git tracks."""
    target = tmp_path_factory.mktemp("export")
    for name in source_files():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((REPOSITORY / name).read_bytes())
    return target


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, export: Path) -> Environment:
    """One in which ``pip install .`` has been run."""
    made = Environment(tmp_path_factory.mktemp("venv") / "venv")
    for name in sorted(_requirements(_declared_requirements(export))):
        made.link(name)
    tools = made.link(_BUILD_REQUIREMENT)
    # --no-index: what is not here is not fetched, so pip itself says when a requirement has not been linked.
    pip = [sys.executable, "-m", "pip", "--python", str(made.python), "--disable-pip-version-check"]
    installed = subprocess.run(
        [*pip, "install", "--no-index", "--no-build-isolation", "."],
        cwd=export,
        env=made.environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    for link in tools:
        link.unlink()
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, environment: Environment) -> Path:
    """``django-admin startproject`` and ``startapp``, then the README's files."""
    path = tmp_path_factory.mktemp("project")
    environment.run(["python", "-m", "django", "startproject", "mysite", "."], cwd=path)
    environment.run(["python", "manage.py", "startapp", "hello"], cwd=path)
    write_files(HOW_TO, path)
    return path


def test_everything_that_the_package_is_made_of_is_installed(environment: Environment) -> None:
    installed = {
        str(path.relative_to(environment.site))
        for path in (environment.site / "zerver").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert installed == {name for name in source_files() if name.startswith("zerver/")}
    assert "zerver/migrations/0001_initial.py" in installed
    assert "zerver/management/commands/process_queue.py" in installed


def test_it_runs_from_where_it_was_installed_and_nowhere_else(
    environment: Environment, project: Path
) -> None:
    where = environment.run(["python", "-c", "import zerver; print(zerver.__file__)"], cwd=project)

    assert Path(where.strip()) == environment.site / "zerver" / "__init__.py"


def test_the_readmes_commands_do_what_it_says(
    environment: Environment, project: Path, worker_log: Path
) -> None:
    *before, last = _commands(HOW_TO, "process_queue")
    for command in before:
        environment.run(command, cwd=project)

    worker = spawn.spawn(last, env=environment.environ, log_path=worker_log, cwd=project)
    try:
        wait_for(lambda: "Hello, Ada!" in worker_log.read_text(), 60, worker_log.read_text)
        worker.send_signal(signal.SIGINT)
        assert worker.wait(120) == 0, worker_log.read_text()
    finally:
        spawn.end(worker)

    looks = [environment.run(command, cwd=project) for command in _commands(HOW_TO, "queue_status")]
    assert re.search(r"^greetings +0 ", looks[0], re.MULTILINE), looks[0]
    assert looks[1].strip() == "no failed events"


def test_the_project_checks_clean(environment: Environment, project: Path) -> None:
    environment.run(["python", "manage.py", "migrate", "--verbosity=0"], cwd=project)
    checked = environment.run(
        ["python", "manage.py", "check", "--database=default", "--fail-level=WARNING"], cwd=project
    )

    assert "no issues" in checked


def test_nothing_beside_the_package_is_installed_and_pytest_finds_its_plugin(
    environment: Environment,
) -> None:
    made = {path.name: path for path in environment.site.iterdir() if not path.is_symlink()}
    [info] = (made.pop(name) for name in list(made) if name.endswith(".dist-info"))

    assert set(made) - {"__pycache__"} == {"zerver"}
    assert "zerver = zerver.testing.plugin" in (info / "entry_points.txt").read_text()


def test_the_plugins_for_nagios_are_beside_its_python(environment: Environment) -> None:
    for plugin in (
        "check-rabbitmq-consumers",
        "check-rabbitmq-queue",
        "check-queue-worker-errors",
        "check_cron_file",
    ):
        done = subprocess.run(
            [environment.path / "bin" / plugin, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (3, "")  # as the guidelines have it
        assert done.stdout.startswith(f"{plugin} (zerver) ")


def test_the_check_of_a_new_project_shows_all_that_it_lacks(environment: Environment, tmp_path: Path) -> None:
    environment.run(["python", "-m", "django", "startproject", "mysite", "."], cwd=tmp_path)
    settings = tmp_path / "mysite" / "settings.py"
    settings.write_text(settings.read_text() + '\nINSTALLED_APPS += ["zerver"]\n')
    check = ["python", "manage.py", "check", "--database=default"]

    refused = subprocess.run(
        check, cwd=tmp_path, env=environment.environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert refused.returncode == 1
    told = refused.stderr
    options = re.search(r'HINT: in DATABASES\[\'default\'\] write "OPTIONS": (\{.*\})', told)
    assert options, told
    pasted = f'DATABASES["default"]["OPTIONS"] = {options[1]}\n'
    settings.write_text(settings.read_text() + pasted)

    assert "no issues" in environment.run([*check, "--fail-level=WARNING"], cwd=tmp_path)


def test_migrating_takes_the_core_alone_and_leaves_nothing_to_migrate(
    environment: Environment, project: Path
) -> None:
    environment.run(["python", "manage.py", "migrate", "--verbosity=0"], cwd=project)
    with closing(sqlite3.connect(project / "db.sqlite3")) as connection:
        migrated = {name for (name,) in connection.execute("SELECT app FROM django_migrations")}
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }

    assert {name for name in migrated if name.startswith("zerver")} == {"zerver"}
    assert any(name.startswith("zerver_") for name in tables)
    assert not tables & {"zerver_incoming_webhook", "zerver_user_activity"}
    environment.run(["python", "manage.py", "migrate", "--check"], cwd=project)
    environment.run(["python", "manage.py", "makemigrations", "--check", "--dry-run"], cwd=project)


def test_what_waits_is_shown_until_a_worker_has_taken_it_and_sigterm_ends_the_worker(
    environment: Environment, project: Path, worker_log: Path
) -> None:
    environment.run(["python", "manage.py", "migrate", "--verbosity=0"], cwd=project)
    publish = 'from zerver.lib.queue import *; queue_json_publish("greetings", {"name": "Grace"})'
    environment.run(["python", "manage.py", "shell", "-c", publish], cwd=project)
    assert _greetings(environment, project)["ready"] == 1

    command = ["python", "manage.py", "process_queue", "--queue=greetings"]
    worker = spawn.spawn(command, env=environment.environ, log_path=worker_log, cwd=project)
    try:
        wait_for(lambda: "Hello, Grace!" in worker_log.read_text(), 60, worker_log.read_text)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 0, worker_log.read_text()
    finally:
        spawn.end(worker)

    left = _greetings(environment, project)
    assert (left["ready"], left["unacked"], left["later"], left["failed"]) == (0, 0, 0, 0)


@pytest.fixture
def worker_log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def _greetings(environment: Environment, project: Path) -> dict[str, Any]:
    """The README's queue in ``queue_status --json``."""
    shown: dict[str, Any] = json.loads(
        environment.run(["python", "manage.py", "queue_status", "--json"], project)
    )
    queues: list[dict[str, Any]] = shown["queues"]
    return next(queue for queue in queues if queue["queue"] == "greetings")


def source_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (REPOSITORY / name).exists()]


def _commands(text: str, naming: str) -> list[list[str]]:
    """The lines of the one block of shell that names this command."""
    chosen = [block for block in blocks(text, "sh") if naming in block.text]
    assert len(chosen) == 1, f"{len(chosen)} blocks name {naming}"
    return [shlex.split(line) for line in chosen[0].text.splitlines()]


def _declared_requirements(export: Path) -> list[str]:
    """The lines of ``install_requires``."""
    config = configparser.RawConfigParser()
    config.read(export / "setup.cfg")
    return [line for line in config["options"]["install_requires"].splitlines() if line and line[0] != "#"]


def _requirements(lines: Iterable[str]) -> set[str]:
    """The names of all that these lines ask for, and of what that needs in turn; without extras."""
    needed: set[str] = set()
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed |= {requirement.name} | _requirements(distribution(requirement.name).requires or ())
    return needed


def _clean_environ() -> dict[str, str]:
    """This environment, without what would lead Python or Django elsewhere than a stranger's would."""
    return clean_environment("DJANGO_", "PYTHON", "VIRTUAL_ENV", "PIP_")

"""The container's files agree with the declarations, and its process works as the first of a namespace of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.test_puppet import queue_config
from tests.servers import spawn
from tests.servers.processes import REPOSITORY
from tests.wait import wait_for
from zerver.deployment.kubernetes import GRACE_SECONDS
from zerver.deployment.programs import SCHEDULER_STOP_SECONDS

CONTAINERFILE = (REPOSITORY / "Containerfile").read_text()
STATE = "/run/queue"
HEALTH_FILE = f"{STATE}/health.json"
#: As a container's: mounts of its own, a project that nobody may write, and a disk that is gone with it.
_AS_CONTAINER = f"""set -e
mount --bind {shlex.quote(str(REPOSITORY))} {shlex.quote(str(REPOSITORY))}
mount -o remount,bind,ro {shlex.quote(str(REPOSITORY))}
mount -t tmpfs none /run
mkdir {STATE}
exec "$@"
"""


def command() -> list[str]:
    """The Containerfile's."""
    [found] = re.findall(r"^CMD (\[.*\])$", CONTAINERFILE, re.M)
    return list(json.loads(found))


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"])


def pods() -> list[dict[str, Any]]:
    """Of the Deployments of the queues that the project declares."""
    manifests = yaml.safe_load_all(queue_config("kubernetes", "--image=zerver", "--no-scheduler"))
    return [manifest["spec"]["template"]["spec"] for manifest in manifests]


class Container:
    """A program as process 1, in the directory that the image has as its own."""

    def __init__(self, arguments: list[str], env: dict[str, str], directory: Path) -> None:
        self._log_path = directory / "container.log"
        mapping = [] if os.geteuid() == 0 else ["--map-root-user"]
        self._process = spawn.spawn(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", *mapping),
                *("sh", "-c", _AS_CONTAINER, "sh", *arguments),
            ],
            env={"PATH": os.environ["PATH"], "QUEUE_STATE_DIR": STATE, "PYTHONDONTWRITEBYTECODE": "1", **env},
            log_path=self._log_path,
            cwd=REPOSITORY,
        )

    @property
    def output(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def first_process(self) -> int:
        """As this host calls it."""
        [pid] = wait_for(lambda: spawn.children_of(self._process.pid), 10, lambda: self.output)
        return pid

    @property
    def health_file(self) -> Path:
        return Path(f"/proc/{self.first_process}/root{HEALTH_FILE}")

    def stop(self) -> int:
        """As an engine does: the exit code."""
        os.kill(self.first_process, signal.SIGTERM)
        return self._process.wait(timeout=60)

    def kill(self) -> None:
        spawn.end(self._process)


@pytest.fixture
def container(sqlite_database: str, tmp_path: Path) -> Iterator[Container]:
    program = [sys.executable, *command()[1:]]
    started = Container(program, {"DATABASE_URL": sqlite_database}, tmp_path)
    yield started
    started.kill()
    print(started.output)


def asked(question: str, path: Path | str) -> int:
    """The exit code of a container's probe."""
    [probe] = {tuple(each["containers"][0]["livenessProbe"]["exec"]["command"]) for each in pods()}
    assert probe[0] == "python"
    arguments = [{"live": question, HEALTH_FILE: str(path)}.get(each, each) for each in probe[1:]]
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, timeout=60, check=False).returncode


def test_the_containers_process_works_as_the_first_and_drains_when_it_is_told_to_stop(
    container: Container,
) -> None:
    wait_for(lambda: "worker started" in container.output, 30, lambda: container.output)
    wait_for(lambda: asked("ready", container.health_file) == 0, 30, lambda: container.output)
    assert asked("live", container.health_file) == 0
    status = Path(f"/proc/{container.first_process}/status").read_text()
    assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.M), "it is process 1"
    assert container.stop() == 0, container.output
    assert "draining: " in container.output
    assert "Traceback" not in container.output
    assert "Read-only file system" not in container.output


def test_a_probe_of_a_container_whose_process_is_not_there_yet_says_no(tmp_path: Path) -> None:
    assert asked("live", tmp_path / "health.json") == 1


def test_compose_gives_the_workers_the_time_that_their_slowest_queue_declares() -> None:
    slowest = max(pod["terminationGracePeriodSeconds"] for pod in pods())
    workers = compose()["workers"]
    assert workers["stop_grace_period"] == f"{slowest}s"
    assert slowest > GRACE_SECONDS


def test_compose_gives_the_scheduler_the_time_that_it_may_take() -> None:
    assert compose()["scheduler"]["command"] == ["python", "manage.py", "queue_scheduler"]
    assert compose()["scheduler"]["stop_grace_period"] == f"{SCHEDULER_STOP_SECONDS}s"


def test_compose_asks_the_same_probe_of_the_file_that_the_image_writes() -> None:
    assert f"--health-file={HEALTH_FILE}" in command()
    [probe] = {tuple(pod["containers"][0]["readinessProbe"]["exec"]["command"]) for pod in pods()}
    assert compose()["workers"]["healthcheck"]["test"] == ["CMD", *probe]


def test_what_compose_runs_of_the_project_is_there() -> None:
    services = compose()
    module, _, name = services["web"]["command"][-1].partition(":")
    assert callable(getattr(import_module(module), name))
    assert (Path(sys.executable).parent / services["web"]["command"][0]).exists()
    for service in ("migrate", "web", "workers", "scheduler"):
        assert services[service]["read_only"] is True
        assert services[service]["init"] is True
        assert STATE in services[service]["tmpfs"]


def test_no_secret_stands_in_the_files() -> None:
    for name, service in compose().items():
        for variable, value in service["environment"].items():
            if re.search("PASS|SECRET|URL", variable):
                assert "${" in value, f"{name}: {variable}"
    assert "PASS" not in CONTAINERFILE

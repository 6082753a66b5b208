"""The project's own commands, run as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import Signals

from tests.servers import spawn, warm
from tests.wait import PATIENCE, WaitTimeoutError, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]


class ProjectProcess:
    """``manage.py`` with some arguments, in the background, in a process group of its own.

    ``is_warm``: it begins where Django has been loaded already; see ``warm``.
    """

    def __init__(
        self, *arguments: str, env: Mapping[str, str], log_path: Path, is_warm: bool = False
    ) -> None:
        self.arguments = arguments
        self.log_path = log_path
        command = [str(REPOSITORY / "manage.py"), *arguments]
        whole = {**clean_environment(), "PYTHONUNBUFFERED": "1", **env}
        self._process = (
            warm.begin(command, env=whole, log_path=log_path, cwd=REPOSITORY)
            if is_warm
            else spawn.spawn([sys.executable, *command], env=whole, log_path=log_path, cwd=REPOSITORY)
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Standard output and standard error, as far as they have been written."""
        return self.log_path.read_text(errors="replace")

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the signal that killed it; None while it runs."""
        return self._process.poll()

    def is_running(self) -> bool:
        return self.returncode is None

    def signal(self, number: Signals) -> None:
        """Signal this process alone, as supervisord does; for its children too, use ``signal_group``."""
        self._process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        """Signal the process and all that it started, as Ctrl-C at a terminal does."""
        spawn.signal_group(self._process, number)

    def wait(self, timeout_seconds: float = 30.0) -> int:
        """Wait for its end, as patiently as ``wait_for`` does, and return its exit code."""
        timeout_seconds *= PATIENCE
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise WaitTimeoutError(f"{self} still runs after {timeout_seconds:g} s:\n{self.output}") from None

    def wait_for_output(self, text: str, timeout_seconds: float = 30.0) -> str:
        """Wait until it has said ``text``, and return all that it has said.

        Raises: WaitTimeoutError, at once when it has ended without saying it.
        """

        def said_or_ended() -> bool:
            ended = not self.is_running()  # asked first: what it says last must not be missed
            return text in self.output or ended

        wait_for(said_or_ended, timeout_seconds, lambda: f"{text!r} from {self}, which said:\n{self.output}")
        if text not in self.output:
            raise WaitTimeoutError(f"{self} ended ({self.returncode}) without {text!r}:\n{self.output}")
        return self.output

    def kill(self) -> None:
        """SIGKILL, to the process and to all that it started."""
        spawn.end(self._process)

    def __str__(self) -> str:
        return f"manage.py {' '.join(self.arguments)} (pid {self.pid})"


@contextmanager
def project_processes(directory: Path, *, is_warm: bool = False) -> Iterator[Callable[..., ProjectProcess]]:
    """``start("process_queue", "--queue=noop", env={"DATABASE_URL": …})`` runs manage.py until the test ends.

    What it said is shown when the test fails.
    """
    started: list[ProjectProcess] = []

    def start(*arguments: str, env: dict[str, str]) -> ProjectProcess:
        log_path = directory / f"process-{len(started)}.log"
        started.append(ProjectProcess(*arguments, env=env, log_path=log_path, is_warm=is_warm))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
        for process in started:
            print(f"--- {process}\n{process.output}")


def run_project(*arguments: str, env: Mapping[str, str], code: int = 0) -> str:
    """``manage.py`` in the foreground, with the project's own settings where ``env`` names no others.

    Shape: its standard output; where ``code``, the exit code that it must have, is a failure's, all that it said.
    """
    whole = {
        **clean_environment(),
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "zerver.settings",
        **env,
    }
    done = warm.run([str(REPOSITORY / "manage.py"), *arguments], env=whole, cwd=REPOSITORY)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said if code else done.stdout


def clean_environment(*beginnings: str) -> dict[str, str]:
    """This environment, without what would point a project elsewhere than the test says.

    ``beginnings``: of the names of what else is left out.
    """
    left_out = ("DATABASE_URL", "QUEUE_", "PYTEST_", *beginnings)
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}

"""Child processes and directories that end with the test process, even when that is killed."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from tests.wait import WaitTimeoutError, wait_for

#: Where unix sockets (at most 107 bytes of path) and other users' servers can live; pytest's own directories are 0700.
TEMPORARY = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())

#: The parent may have died before the child asked to be told of it: then the child must not start at all.
_START_UNLESS_ORPHANED = '[ "$PPID" = "$0" ] || exit 97; exec "$@"'

#: Of <linux/prctl.h>.
PR_SET_PDEATHSIG = 1

_guard: tuple[int, subprocess.Popen[str]] | None = None


class ServerMissingError(RuntimeError):
    """A server's programs are not installed."""

    def __init__(self, program: str, package: str) -> None:
        self.program = program
        self.package = package
        super().__init__(f"{program} is not installed (apt-get install {package})")


class ServerStartError(RuntimeError):
    """A server was started and did not get ready; the message ends with what it logged."""

    def __init__(self, what: str, log_path: Path) -> None:
        log = log_path.read_text(errors="replace")[-4000:] if log_path.exists() else "(no log)"
        super().__init__(f"{what} did not start. {log_path}:\n{log}")


class Child(Protocol):
    """A process that leads a group of its own, as far as it is ended by ``end``."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float) -> int: ...


class Server(ABC):
    """A context: started inside, and closed whatever happens, a start that fails included."""

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers."""

    @abstractmethod
    def close(self) -> None:
        """End all of it, and remove what it made."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    log_path: Path,
    cwd: Path | None = None,
    user: str | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own, which gets ``death_signal`` when the test process dies.

    The kernel signals the child itself (PR_SET_PDEATHSIG); the guard reaches what the child started in turn.
    ``user``, when running as root, is whom the child runs as. Output goes to the end of ``log_path``.
    """
    if threading.current_thread() is not threading.main_thread():
        # To the kernel the parent is the thread that forked: the child would die with a thread that merely ends.
        raise RuntimeError("Servers and processes must be started from the main thread")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ServerMissingError("setpriv", "util-linux")
    identity = [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    # --pdeathsig comes after the change of user, which would clear it.
    prefix = [setpriv, *identity, f"--pdeathsig={death_signal.name.removeprefix('SIG')}", "--"]
    orphan_check = ["/bin/sh", "-c", _START_UNLESS_ORPHANED, str(os.getpid())]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*prefix, *orphan_check, *map(str, command)],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    end_with_tests(process.pid, death_signal)
    return process


def end_with_tests(group: int, death_signal: signal.Signals = signal.SIGKILL) -> None:
    """All of a process group, should the test process be killed; until ``end``."""
    _tell_guard(f"group {group} {int(death_signal)}")


def end_with_parent() -> None:
    """From now on this process is killed when the thread that started it ends, as spawned ones are."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl")


def end(process: Child, timeout_seconds: float = 10.0) -> None:
    """SIGKILL the child and all of its process group, stopped ones too, and reap it."""
    signal_group(process, signal.SIGKILL)
    process.wait(timeout=timeout_seconds)
    _tell_guard(f"forget-group {process.pid}")


def signal_group(process: Child, signal_number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of it has ended already
        os.killpg(process.pid, signal_number)


def make_directory(prefix: str) -> Path:
    """A directory, open to every user, that is removed by ``remove_directory``, or by the guard."""
    directory = Path(tempfile.mkdtemp(prefix=f"zerver-{prefix}-", dir=TEMPORARY))
    _tell_guard(f"directory {directory}")
    directory.chmod(0o755)
    return directory


def remove_directory(directory: Path) -> None:
    def is_gone() -> bool:
        # A process that is on its way out may still write a last file.
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    wait_for(is_gone, 10, f"{directory} to be removed")
    _tell_guard(f"forget-directory {directory}")


def children_of(pid: int) -> list[int]:
    """The live child processes of any process, as the kernel lists them."""
    found: list[int] = []
    for children in Path("/proc").glob(f"{pid}/task/*/children"):
        try:
            found.extend(map(int, children.read_text().split()))
        except OSError:
            continue  # that thread has ended
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped: after SIGSTOP they stop one by one."""
    states = [
        stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return all(state == "T" for state in states)


def wait_until_dead(pids: Sequence[int], timeout_seconds: float = 10.0) -> bool:
    try:
        wait_for(lambda: not any(map(is_alive, pids)), timeout_seconds)
    except WaitTimeoutError:
        return False
    return True


def _tell_guard(line: str) -> None:
    global _guard
    if _guard is None or _guard[0] != os.getpid():
        # One guard per process that starts things: a forked child must not hold its parent's.
        guard = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(__file__).with_name("guard.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        _guard = (os.getpid(), guard)
    pipe = _guard[1].stdin
    assert pipe is not None
    pipe.write(line + "\n")
    pipe.flush()


def dismiss_guard() -> None:
    """Let the guard finish, at the end of a session; whatever is still on its list is ended now."""
    global _guard
    if _guard is not None and _guard[0] == os.getpid():
        assert _guard[1].stdin is not None
        _guard[1].stdin.close()
        _guard[1].wait(timeout=30)
        _guard = None

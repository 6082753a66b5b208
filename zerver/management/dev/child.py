"""One child process: started on a leash, listened to, and reaped."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LEASH = Path(__file__).with_name("leash.py")
#: A process that has left its group may hold the pipe open; nobody waits for that.
_LAST_WORDS_SECONDS = 1.0


class Child:
    """A process in a session of its own: a terminal's Ctrl-C reaches its parent alone, which ends it in good order.

    It dies with the thread that made it, so make it on the main thread (prctl(2): "parent" is the creating thread).
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        on_line: Callable[[str], None],
        on_end: Callable[["Child"], None],
    ) -> None:
        self._on_line = on_line
        self._on_end = on_end
        self._lock = threading.Lock()
        self._is_reaped = False
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(_LEASH), str(os.getpid()), *command],
            # Unbuffered, so that its lines come when they are written.
            env={**env, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"reader-{self.pid}", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name=f"waiter-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def end(self) -> str:
        """How it ended, for people."""
        status = self._process.returncode
        return (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with exit status {status}"
        )

    def terminate(self) -> None:
        """Ask it, and not its own children, to end."""
        with self._lock:
            if not self._is_reaped:
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all of its process group."""
        with self._lock:
            if not self._is_reaped:
                os.killpg(self.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 (narrows the type)
        with self._process.stdout as lines:
            for line in lines:
                self._on_line(line.decode(errors="replace").rstrip("\r\n"))

    def _wait(self) -> None:
        # Dead but not yet reaped: until then its pid is nobody else's, and the rest of its group can be ended by it.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self._lock:
            self._process.wait()
            self._is_reaped = True
        self._reader.join(_LAST_WORDS_SECONDS)
        self._on_end(self)

"""Lines of several processes on one screen."""

import re
import sys
import threading
from collections import deque
from collections.abc import Callable

_TAIL_LINES = 40
_TROUBLE = re.compile(r"\s(WARNING|ERROR|CRITICAL)\s")


class Console:
    """Writes whole lines to standard error, each behind the name of who says it. Any thread may call.

    When ``quiet``, what processes say is kept back, except for warnings and worse, and the last of it is shown on
    request. ``on_lost`` is called once, should nobody be reading any more.
    """

    def __init__(self, on_lost: Callable[[], None], *, quiet: bool = False) -> None:
        self._on_lost = on_lost
        self._quiet = quiet
        self._lock = threading.Lock()
        self._is_lost = False
        self._tail: deque[tuple[str, str]] = deque(maxlen=_TAIL_LINES)

    def note(self, text: str) -> None:
        """``queue_dev`` itself says something."""
        self._write("queue_dev", text)

    def passed_on(self, source: str, text: str) -> None:
        """A child process says something."""
        if self._quiet and not _TROUBLE.search(text):
            self._tail.append((source, text))
        else:
            self._write(source, text)

    def show_tail(self) -> None:
        """What was kept back, the last lines of it."""
        while self._tail:
            self._write(*self._tail.popleft())

    def _write(self, source: str, text: str) -> None:
        with self._lock:
            if self._is_lost:
                return
            try:
                # Asked for anew each time: a progress bar stands in for it, to keep itself below the lines.
                sys.stderr.write(f"{source:<9} | {text}\n")
                sys.stderr.flush()
                return
            except (OSError, ValueError):
                self._is_lost = True  # `2>&1 | head`, a closed terminal
        self._on_lost()

"""Ends what the tests started, should the tests themselves be killed. Run as a script, by ``spawn.py`` alone.

Its standard input is a pipe that only the test process holds open. However that process ends, the pipe ends with it;
then every group still on the list is signalled and every directory still on the list is removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

GRACE_SECONDS = 5.0


def main() -> None:
    groups: dict[int, int] = {}
    directories: set[str] = set()
    for line in sys.stdin:
        verb, _, argument = line.rstrip("\n").partition(" ")
        if verb == "group":
            group, death_signal = argument.split()
            groups[int(group)] = int(death_signal)
        elif verb == "forget-group":
            groups.pop(int(argument), None)
        elif verb == "directory":
            directories.add(argument)
        elif verb == "forget-directory":
            directories.discard(argument)
    for group, death_signal in groups.items():
        _signal_group(group, death_signal)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(_signal_group(group, 0) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.02)
    for group in groups:
        _signal_group(group, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _signal_group(group: int, signal_number: int) -> bool:
    try:
        os.killpg(group, signal_number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()

"""Becomes another program, one that does not outlive its parent. Run as a script, by ``child.py`` alone.

A script before ``exec`` rather than a ``preexec_fn``, which is not safe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

#: From <sys/prctl.h>. The request survives exec; the kernel sends the signal when the parent has died.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arguments: the parent's pid, and the command with its arguments."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("its parent has ended before it began")
    os.execv(command[0], command)  # noqa: S606 (a command of our own, no shell)


if __name__ == "__main__":
    main()

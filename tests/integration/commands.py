"""Commands called as code calls them: what they said, where, and the exit code that a shell would see."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.core.management import CommandError, call_command


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def row(self, first: str) -> list[str]:
        """The cells of the table's row that begins with ``first``; single spaces do not part cells."""
        [line] = [line for line in self.out.splitlines() if line.split(maxsplit=1)[:1] == [first]]
        return [cell for cell in (part.strip() for part in line.split("  ")) if cell]


@contextmanager
def at_terminal(typed: str = "") -> Iterator[None]:
    """Standard input is a terminal, where somebody has typed this."""
    master, slave = pty.openpty()
    before = sys.stdin
    try:
        os.write(master, typed.encode())
        with open(slave, encoding="utf-8") as sys.stdin:
            yield
    finally:
        sys.stdin = before
        os.close(master)


def run(*arguments: str) -> Ran:
    """Run a command in this process. A failure's one line is the last of ``err``, as it is on a shell's stderr."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    try:
        call_command(*arguments, stdout=out, stderr=err)
    except CommandError as error:
        code = error.returncode
        err.write(f"{error}\n")
    except SystemExit as end:
        code = int(end.code or 0)
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())

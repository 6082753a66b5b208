"""A document's commands, typed in order; what it shows beneath them is compared with what comes.

In its blocks of ``console``, a line with a prompt is typed, at the host that the prompt names (``shop2$ …``). It must
succeed, unless it says otherwise (``# ends with 2``), and its output must have the lines that follow, in order and
among others; ``…`` is anything. A command that only looks is typed again until it shows that, as its reader would.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from tests.ops.documents import blocks
from tests.wait import wait_for

_PROMPT = re.compile(r"^(?P<place>\w*)\$ (?P<command>.+)$")
_END = re.compile(r"# ends with (\d)$")
#: They change nothing, so who does not see yet what is to be seen looks again.
_LOOKS = re.compile(
    r"\./manage\.py (queue_(status|check|explain)|queue_(workers|failed) list)\b|supervisorctl status"
    r"|rabbitmqctl list_queues|rabbitmq-queues check_"
)
_LOOK_SECONDS = 30.0


class Typist(Protocol):
    """Somebody at a host."""

    def type(self, command: str) -> subprocess.CompletedProcess[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command, and what is to be seen then."""

    #: Empty: wherever one is.
    place: str
    command: str
    seen: tuple[str, ...]

    @property
    def code(self) -> int:
        said = _END.search(self.command)
        return int(said[1]) if said else 0

    def take(self, host: Typist) -> None:
        if _LOOKS.match(self.command):
            wait_for(lambda: not self._difference(host), _LOOK_SECONDS, lambda: self._difference(host))
        else:
            difference = self._difference(host)
            assert not difference, difference

    def _difference(self, host: Typist) -> str:
        """Type it. Empty: what comes is as told."""
        ran = host.type(self.command)
        print(f"{self.place}$ {self.command}\n{ran.stdout}", flush=True)
        if ran.returncode == self.code and self._is_shown_by(ran.stdout):
            return ""
        told = "\n".join(self.seen)
        return (
            f"what the document shows of {self.command!r}, which ends with {self.code}:\n{told}\n"
            f"and what came, with {ran.returncode}:\n{ran.stdout}"
        )

    def _is_shown_by(self, output: str) -> bool:
        rest = iter(output.splitlines())
        return all(any(_pattern(line).search(shown) for shown in rest) for line in self.seen)


def steps(text: str) -> Iterator[Step]:
    """Those of a section, in order."""
    for block in blocks(text, "console"):
        typed: re.Match[str] | None = None
        seen: list[str] = []
        for line in [*block.text.splitlines(), "$ end"]:
            prompt = _PROMPT.match(line)
            if prompt is None:
                seen.append(line)
                continue
            if typed is not None:
                yield Step(place=typed["place"], command=typed["command"], seen=tuple(seen))
            typed, seen = prompt, []


def follow(text: str, hosts: Mapping[str, Typist]) -> None:
    """Take all steps of a section. ``hosts``: by name; "" is where one is when nothing is said."""
    for step in steps(text):
        step.take(hosts[step.place])


def _pattern(line: str) -> re.Pattern[str]:
    """More spaces are no difference; ``…`` may be nothing."""
    text = re.sub(r"(\\ )+", r"\\s+", re.escape(line.strip()))
    return re.compile(re.sub(r"(\\s\+)?…(\\s\+)?", ".*", text))

"""What is declared of each queue, from the file that puppet or ``queue_config declarations`` writes.

Its age tells nothing: both leave a file alone that says already what it should. That it is out of date shows when a
worker runs at a queue that it does not know; see ``stats.Workers.doubts``.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerver.lib.errors import meant
from zerver.nagios.errors import cannot_ask

#: Of the file; any other is refused. A field more is no new format.
FORMAT = 1
_NAME = re.compile(r"(?=.{1,63}\Z)[a-z][a-z0-9_]*(\.[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    queue: str
    #: Worker processes on one host.
    workers: int
    #: Handler threads of each; earlier files do not say.
    threads: int = 1
    timeout_seconds: float
    #: Of its backlog.
    warn_seconds: float
    crit_seconds: float


def mend_of(path: Path) -> str:
    return f"write it anew: ./manage.py queue_config declarations --file={path} --write, or puppet"


def read(path: Path) -> dict[str, Declared]:
    """Raises: NoAnswer, unknown."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise cannot_ask(
            f"{path} is not there, which tells what is declared", f"{mend_of(path)}; or name it with -d"
        ) from None
    except OSError as error:
        raise cannot_ask(
            f"{path} cannot be read ({error.strerror or error})", "let this user read it"
        ) from None
    except (ValueError, RecursionError):
        raise cannot_ask(f"{path} is no JSON", mend_of(path)) from None
    if not isinstance(found, dict) or not isinstance(found.get("queues"), dict):
        raise cannot_ask(f"{path} tells of no queues", mend_of(path))
    if found.get("format") != FORMAT:
        told = str(found.get("format"))[:20]
        raise cannot_ask(
            f"{path} is of format {told}, and this plugin reads {FORMAT}", "let both be of one release"
        )
    if not found["queues"]:
        raise cannot_ask(f"{path} tells of no queues", mend_of(path))
    return {name: _declared(path, name, said) for name, said in found["queues"].items()}


def chosen(queues: Mapping[str, Declared], names: Collection[str], path: Path) -> list[Declared]:
    """Those named, or all. Raises: NoAnswer, unknown."""
    for name in names:
        if name not in queues:
            raise cannot_ask(
                f"{path} does not know queue {name!r}", f"{meant(name, queues)}; {mend_of(path)}"
            )
    return [queue for name, queue in queues.items() if not names or name in names]


def _declared(path: Path, name: str, said: object) -> Declared:
    if not _NAME.fullmatch(name) or not isinstance(said, dict):
        raise cannot_ask(f"{path} has {name[:80]!r} where a queue should stand", mend_of(path))
    queue = Declared(
        queue=name,
        workers=_whole(path, name, said, "workers", said.get("workers")),
        threads=_whole(path, name, said, "threads", said.get("threads", 1)),
        **{
            what: _seconds(path, name, said, what)
            for what in ("timeout_seconds", "warn_seconds", "crit_seconds")
        },
    )
    if queue.warn_seconds > queue.crit_seconds:
        raise cannot_ask(
            f"{path}: queue {name} warns at {queue.warn_seconds:g} s, after it is critical at {queue.crit_seconds:g} s",
            f"declare warn_seconds below crit_seconds, and {mend_of(path)}",
        )
    return queue


def _whole(path: Path, name: str, said: Mapping[str, Any], what: str, value: object) -> int:
    if type(value) is not int or not 0 < value < 100_000:
        raise _nonsense(path, name, said, what)
    return value


def _seconds(path: Path, name: str, said: Mapping[str, Any], what: str) -> float:
    value = said.get(what)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 10**9:
        raise _nonsense(path, name, said, what)
    return float(value)


def _nonsense(path: Path, name: str, said: Mapping[str, Any], what: str) -> Exception:
    return cannot_ask(f"{path}: {what} of queue {name} is {str(said.get(what))[:40]!r}", mend_of(path))

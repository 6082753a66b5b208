"""supervisord's configuration, read for the programs that run worker processes. Supervisor itself is not needed.

Of a command line nothing is kept but what it says of queues: it may hold a password.
"""

import argparse
import configparser
import os
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

#: Where Debian's package and supervisor's own manual put it.
USUAL_FILES = ("/etc/supervisor/supervisord.conf", "/etc/supervisord.conf")
USUAL_DIRECTORY = "/etc/supervisor/conf.d"

_WORKER, _SCHEDULER = "process_queue", "queue_scheduler"
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash")
_SHELL_SIGNS = frozenset({";", "&&", "||", "|", "&", ">", ">>", "2>", "2>&1", "<"})
_TRUE = ("true", "t", "yes", "y", "on", "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A ``[program:x]`` that runs ``process_queue``. Defaults are supervisor's own."""

    name: str
    path: Path
    #: Those named by ``--queue`` or ``--multi_threaded``; empty with ``--all``.
    queues: tuple[str, ...]
    runs_all: bool
    #: Of each of its processes, what ``--worker_num`` says; None where it says nothing. Of ``numprocs=0`` none.
    worker_numbers: tuple[int | None, ...]
    #: ``--queue``: a process is one worker. Else it has as many as the queue declares.
    is_one_worker: bool
    #: The command is a shell's, and the worker its child.
    has_shell: bool
    stop_wait_seconds: float
    stops_as_group: bool
    kills_as_group: bool
    #: ``true``, ``false`` or ``unexpected``.
    autorestart: str

    @property
    def where(self) -> str:
        return f"{self.path} [program:{self.name}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What was found in some files."""

    programs: tuple[Program, ...] = ()
    #: Those that could be read.
    files: tuple[Path, ...] = ()
    #: What could not be read, and why.
    unreadable: tuple[tuple[Path, str], ...] = ()


def usual_paths() -> list[Path]:
    """Those of the usual places where there is something."""
    return [path for path in map(Path, (*USUAL_FILES, USUAL_DIRECTORY)) if path.exists() and _files(path)]


def read(paths: Sequence[Path]) -> Configuration:
    """Of files, with what they include, and of directories, their ``*.conf``; each file once."""
    programs: list[Program] = []
    files: list[Path] = []
    unreadable: list[tuple[Path, str]] = []
    waiting: list[Path] = []
    for path in paths:
        found_there = _files(path)
        waiting += found_there
        if not found_there:
            unreadable.append((path, "no *.conf is in it"))
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop(0)
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            sections = sections_of(path)
            found = list(_programs(sections, path))
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            # A parser's message quotes the line, and with it whatever secret stands there.
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            unreadable.append((path, why))
            continue
        files.append(path)
        programs += found
        waiting += _included(sections, path)
    return Configuration(programs=tuple(programs), files=tuple(files), unreadable=tuple(unreadable))


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.conf")) if path.is_dir() else [path]


def sections_of(path: Path) -> configparser.RawConfigParser:
    """As supervisor reads it. Source: supervisor/options.py, ``UnhosedConfigParser``."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(path.read_text(), source=str(path))
    return parser


def _included(sections: configparser.RawConfigParser, path: Path) -> list[Path]:
    patterns = sections.get("include", "files", fallback="").split()
    here = path.resolve().parent
    found: list[Path] = []
    for pattern in patterns:
        wanted = Path(expanded(pattern, {"here": str(here)}))
        root, relative = (
            (Path(wanted.anchor), wanted.relative_to(wanted.anchor))
            if wanted.is_absolute()
            else (here, wanted)
        )
        found += sorted(root.glob(str(relative)))
    return found


def _programs(sections: configparser.RawConfigParser, path: Path) -> Iterator[Program]:
    for section in sections.sections():
        kind, _, name = section.partition(":")
        if kind.strip() == "program":
            program = _program(dict(sections.items(section)), name.strip(), path)
            if program is not None:
                yield program


def _program(options: Mapping[str, str], name: str, path: Path) -> Program | None:
    """None for one that runs something else."""
    count = max(0, int(_number(options.get("numprocs"), 1)))
    start = int(_number(options.get("numprocs_start"), 0))
    runs = []
    # What a program without a process would run is told by the first that it would have.
    for number in range(start, start + max(1, count)):
        names = {
            "here": str(path.resolve().parent),
            "host_node_name": socket.gethostname(),
            "program_name": name,
            "group_name": name,
            "process_num": number,
            "numprocs": count,
            **{f"ENV_{key}": value for key, value in os.environ.items()},
        }
        runs.append(run_of(expanded(options.get("command", ""), names)))
    first = runs[0]
    if first is None or first.is_scheduler:
        return None
    kills_as_group = _is_true(options.get("killasgroup", options.get("stopasgroup")))
    return Program(
        name=name,
        path=path,
        queues=first.queues,
        runs_all=first.runs_all,
        worker_numbers=tuple(run.worker_number for run in runs[:count] if run is not None),
        is_one_worker=first.is_one_worker,
        has_shell=first.has_shell,
        stop_wait_seconds=_number(options.get("stopwaitsecs"), 10),
        stops_as_group=_is_true(options.get("stopasgroup")),
        kills_as_group=kills_as_group,
        autorestart=options.get("autorestart", "unexpected").strip().lower(),
    )


# -- command lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one command line says of queues; ``is_scheduler``: it runs ``queue_scheduler``, and none."""

    has_shell: bool
    queues: tuple[str, ...] = ()
    runs_all: bool = False
    is_one_worker: bool = False
    worker_number: int | None = None
    is_scheduler: bool = False


class _Arguments(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError


def run_of(command: str, *, has_shell: bool = False) -> Run | None:
    """None for a command that is neither ``process_queue`` nor ``queue_scheduler``, or says nothing of queues."""
    words = _words(command)
    for index, word in enumerate(words):
        if word == _WORKER:
            return _arguments(words[index + 1 :], has_shell=has_shell)
        if word.rstrip(";") == _SCHEDULER:
            return Run(has_shell=has_shell, is_scheduler=True)
        if (_WORKER in word or _SCHEDULER in word) and any(sign.isspace() for sign in word):
            # ``sh -c "…"``; with exec the worker takes the shell's place.
            is_shell = Path(words[0]).name in _SHELLS and "exec" not in _words(word)
            return run_of(word, has_shell=has_shell or is_shell)
    return None


def _arguments(words: Sequence[str], *, has_shell: bool) -> Run | None:
    end = next((index for index, word in enumerate(words) if word in _SHELL_SIGNS), len(words))
    parser = _Arguments(add_help=False)
    parser.add_argument("--queue", "--queue_name", default=None)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--multi_threaded", nargs="+", default=())
    parser.add_argument("--worker_num", default="")
    try:
        told, _ = parser.parse_known_args([word.rstrip(";") for word in words[:end]])
    except ValueError:
        return None
    queues = tuple(told.multi_threaded) or ((told.queue,) if told.queue else ())
    if not queues and not told.all:
        return None
    number = told.worker_num
    return Run(
        queues=() if told.all else queues,
        runs_all=told.all,
        is_one_worker=told.queue is not None and not told.all and not told.multi_threaded,
        worker_number=int(number) if number.isascii() and number.isdecimal() else None,
        has_shell=has_shell,
    )


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def expanded(text: str, names: Mapping[str, object]) -> str:
    """``%(process_num)02d`` and the like; as it is where it names what is not known here."""
    try:
        return text % names
    except (KeyError, TypeError, ValueError):
        return text


def _number(text: str | None, usual: float) -> float:
    try:
        return float(text) if text is not None else usual
    except ValueError:
        return usual


def _is_true(text: str | None) -> bool:
    return text is not None and text.strip().lower() in _TRUE

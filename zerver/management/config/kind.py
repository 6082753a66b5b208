"""What a kind of file is asked for; ``queue_config`` does with all of them the same."""

from abc import ABC, abstractmethod
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from django.apps import apps
from django.core.management.base import CommandError

from zerver.deployment.programs import QueueProgram, programs_of
from zerver.lib.conf import get_settings
from zerver.lib.registry import queues, shards_of
from zerver.monitoring.checkup.finding import expected

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file, and what it should say."""

    path: Path
    #: Empty: it should not be there.
    text: str
    #: What it says when it is not there yet; None: it must be there.
    missing: str | None = ""

    def current(self) -> str:
        """Raises: CommandError."""
        return read(self.path, missing=self.missing)


class Kind(ABC):
    """Something that operators' programs are told of the queues."""

    #: As it is typed.
    name: ClassVar[str]
    help: ClassVar[str]
    description: ClassVar[str] = ""
    #: Where ``--check`` and ``--write`` look without being told.
    usual_path: ClassVar[str]
    #: How they are told; ``options["file"]``.
    place_flag: ClassVar[str] = "--file"

    def add_arguments(self, parser: ArgumentParser) -> None:  # noqa: B027 (a kind may have none)
        """Those of this kind alone; its ``place_flag``, ``--check`` and ``--write`` are there already."""

    @abstractmethod
    def text(self, options: Options) -> str:
        """What is printed. Raises: CommandError, ConfigurationError."""

    @abstractmethod
    def documents(self, options: Options) -> Sequence[Document]:
        """What ``--check`` compares and ``--write`` writes. Raises: CommandError, ConfigurationError."""

    def remarks(self, options: Options) -> Sequence[str]:
        """What people should know of it before it is used, beside what it says."""
        return []


def add_no_scheduler(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--no-scheduler",
        action="store_true",
        help="no queue_scheduler: it runs elsewhere (it is left out too where zerver.schedule is not installed)",
    )


def has_scheduler(options: Options) -> bool:
    """Whether ``queue_scheduler`` is among the processes. Schedules may be made at run time, so it is not asked for
    whether there are any.
    """
    return is_scheduler_installed() and not options["no_scheduler"]


def is_scheduler_installed() -> bool:
    return apps.is_installed("zerver.schedule")


def shown(documents: Iterable[Document]) -> str:
    """Several files, as ``systemctl cat`` shows them."""
    return "\n".join(f"# {document.path}\n{document.text}" for document in documents)


def read(path: Path, *, missing: str | None = None) -> str:
    """``missing``: what a file that is not there says; None: it must be there. Raises: CommandError."""
    try:
        return path.read_text()
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise CommandError(f"{path} is not there; name another with --file") from error
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read ({error.strerror}); let this user read it, or name another"
        ) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is no text, and so no file of ours; name another") from error


def programs_everywhere() -> list[QueueProgram]:
    """For all hosts: what this one's environment says of queues and broker must not get into a committed list."""
    code = [queues.declared(queue.name) for queue in queues.families(test_queues=True)]
    return programs_of(expected([each for queue in code for each in shards_of(queue)], has_broker=True))


def programs_here() -> list[QueueProgram]:
    """For this host. Raises: CommandError where it would run none."""
    programs = programs_of(expected(queues.all(test_queues=False), has_broker=get_settings().has_broker))
    if not programs:
        raise CommandError("no queue is declared that workers should be at: see ./manage.py queue_list --all")
    return programs

"""What operators' programs are told of the queues, made from the declarations."""

import difflib
import sys
import traceback
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from zerver.deployment import normal_queues, supervisor
from zerver.deployment.programs import programs_of
from zerver.deployment.site import DEFAULT_NAME, DEFAULT_NICE, Site
from zerver.lib.conf import get_settings
from zerver.lib.printable import one_line
from zerver.lib.queue_stats import write_whole
from zerver.lib.registry import QueueDeclaration, queues
from zerver.management.base import QueueCommand
from zerver.management.stdout import OutputLost
from zerver.monitoring.checkup.finding import expected

#: Of --check: what keeps it from an answer.
EXIT_NO_ANSWER = 3

_MANIFEST = "puppet/zulip/manifests/base.pp"


class Command(QueueCommand):
    """Exit codes of ``--check``: 0 the file says what is declared, 1 it does not, 2 usage, 3 it could not tell."""

    help = (
        "Prints what operators' programs are told of the queues, made from what is declared; --check says whether a "
        "file still says so (exit code 1: it does not, 3: it could not tell), --write makes it."
    )

    #: The exit code is the answer, and has not been found yet.
    _owes_answer = False

    def run_from_argv(self, argv: list[str]) -> None:
        """As from a shell, where a traceback may not be taken for the answer that a file differs."""
        try:
            super().run_from_argv(argv)
        except Exception:
            if not self._owes_answer:
                raise
            traceback.print_exc()
            sys.exit(EXIT_NO_ANSWER)

    def execute(self, *args: Any, **options: Any) -> str | None:
        self._owes_answer = options["check"]
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            if self._owes_answer and error.returncode == 1:
                error.returncode = EXIT_NO_ANSWER
            raise

    def add_arguments(self, parser: ArgumentParser) -> None:
        kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

        listing = kinds.add_parser(
            "normal-queues",
            help="the list that puppet reads: a file of which the part between two marks is it",
        )
        self._add_file(listing, f"{_MANIFEST} beside manage.py")

        supervising = kinds.add_parser(
            "supervisor",
            help="supervisord's programs, as puppet writes them",
            description=(
                "Prints supervisord's programs, byte for byte as zulip::app_frontend writes them. What is not given "
                "follows from what is, as there: the user from the name, the directory from the user's home."
            ),
        )
        self._add_file(supervising, "/etc/supervisor/conf.d/NAME.conf")
        supervising.add_argument("--name", default=DEFAULT_NAME, help="programs begin with it (%(default)s)")
        supervising.add_argument("--user", help="who runs them (NAME)")
        for flag, what in (
            ("--home", "the user's (/home/USER)"),
            ("--directory", "where manage.py is (HOME/deployments/current)"),
            ("--python", "the interpreter (DIRECTORY/.venv/bin/python)"),
            ("--log-directory", "where their logs go (/var/log/NAME)"),
        ):
            supervising.add_argument(flag, type=PurePosixPath, metavar="PATH", help=what)
        supervising.add_argument("--nice", type=int, default=DEFAULT_NICE, metavar="N", help="(%(default)s)")
        supervising.add_argument(
            "--environment",
            type=_variable,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="a variable that all of them get, and no secret; may be given again",
        )
        supervising.add_argument(
            "--multi-threaded",
            action="store_true",
            help="one process for all queues, a thread for each worker",
        )

    def _add_file(self, parser: ArgumentParser, usual: str) -> None:
        parser.add_argument("--file", type=Path, metavar="PATH", help=f"of --check and --write ({usual})")
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--check",
            action="store_true",
            help="say in what the file differs; 1 if it does, 3 if it could not tell",
        )
        how.add_argument("--write", action="store_true", help="make the file say so")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["file"] and not (options["check"] or options["write"]):
            self.usage("--file is of --check and --write: give one of them")
        if queues.broken_modules:
            self.warn_of_broken_modules()
            raise CommandError(
                "so what is declared is not known, and nothing is written: mend the import first"
            )
        kinds: dict[str, Callable[[dict[str, Any]], None]] = {
            "normal-queues": self._normal_queues,
            "supervisor": self._supervisor,
        }
        kinds[options["kind"]](options)

    def _normal_queues(self, options: dict[str, Any]) -> None:
        programs = programs_of(_declared())
        if not (options["check"] or options["write"]):
            self.stdout.write(normal_queues.render(programs), ending="")
            return
        path = options["file"] or Path(settings.BASE_DIR) / _MANIFEST
        before = _read(path)
        self._deliver(options, path, before, normal_queues.written_into(before, programs))

    def _supervisor(self, options: dict[str, Any]) -> None:
        site = Site.derived(
            environment=dict(options["environment"]),
            **{
                name: options[name]
                for name in ("name", "user", "home", "directory", "log_directory", "python", "nice")
            },
        )
        programs = programs_of(_effective())
        if not programs:
            raise CommandError(
                "no queue is declared that workers should be at: see ./manage.py queue_list --all"
            )
        text = supervisor.render(site, programs, is_multi_threaded=options["multi_threaded"])
        if not (options["check"] or options["write"]):
            self.stdout.write(text, ending="")
            return
        path = options["file"] or Path(f"/etc/supervisor/conf.d/{site.name}.conf")
        self._deliver(options, path, _read(path, missing=""), text)

    def _deliver(self, options: dict[str, Any], path: Path, before: str, wanted: str) -> None:
        """``--write`` or ``--check``. Raises: CommandError."""
        if before == wanted:
            self._tell(f"{path}: as declared\n")
        elif options["write"]:
            try:
                write_whole(path, wanted)
            except OSError as error:
                raise CommandError(f"{path} cannot be written: {one_line(error)}") from error
            self.stdout.write(f"{path}: written")
        else:
            difference = difflib.unified_diff(
                before.splitlines(keepends=True),
                wanted.splitlines(keepends=True),
                fromfile=str(path),
                tofile="as declared",
            )
            self._tell("".join(difference))
            raise CommandError(
                f"{path} does not say what is declared: the same command with --write mends it"
            )

    def _tell(self, answer: str) -> None:
        try:
            self.stdout.write(answer, ending="")
            self.stdout.flush()
        except OutputLost as error:
            # The exit code is the answer, whether anybody wants to read more of it or not.
            if not error.is_reader_gone:
                raise
        self._owes_answer = False


def _declared() -> list[QueueDeclaration]:
    """For all hosts: what this one's environment says of queues and broker must not get into a committed list."""
    code = [queues.declared(queue.name) for queue in queues.all(test_queues=True)]
    return expected(code, has_broker=True)


def _effective() -> list[QueueDeclaration]:
    """For this host."""
    return expected(queues.all(test_queues=False), has_broker=get_settings().has_broker)


def _read(path: Path, *, missing: str | None = None) -> str:
    """``missing``: what a file that is not there says; None: it must be there. Raises: CommandError."""
    try:
        return path.read_text()
    except FileNotFoundError as error:
        if missing is None:
            raise CommandError(
                f"{path} cannot be read: {one_line(error)}; name another with --file"
            ) from error
        return missing
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {one_line(error)}; name another with --file") from error


def _variable(text: str) -> tuple[str, str]:
    name, has_value, value = text.partition("=")
    if not has_value:
        # Not quoted: it may be a secret that was mistyped.
        raise ArgumentTypeError("give NAME=VALUE")
    return name, value

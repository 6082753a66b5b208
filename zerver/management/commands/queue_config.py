"""What operators' programs are told of the queues, made from the declarations."""

import difflib
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from zerver.lib.queue_stats import write_whole
from zerver.lib.registry import queues
from zerver.management.base import QueueCommand
from zerver.management.config.declarations import Declarations
from zerver.management.config.kind import Document, Kind
from zerver.management.config.kubernetes import Kubernetes
from zerver.management.config.nagios import Nagios, Nrpe
from zerver.management.config.normal_queues import NormalQueues
from zerver.management.config.supervisor import Supervisor
from zerver.management.config.systemd import Systemd
from zerver.management.stdout import OutputLost

KINDS: Sequence[Kind] = (
    NormalQueues(),
    Supervisor(),
    Systemd(),
    Declarations(),
    Nagios(),
    Nrpe(),
    Kubernetes(),
)

#: Of --check: what keeps it from an answer.
EXIT_NO_ANSWER = 3


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
        for kind in KINDS:
            own = kinds.add_parser(kind.name, help=kind.help, description=kind.description or None)
            self._add_place(own, kind)
            kind.add_arguments(own)

    def _add_place(self, parser: ArgumentParser, kind: Kind) -> None:
        parser.add_argument(
            kind.place_flag,
            dest="file",
            type=Path,
            metavar="PATH",
            help=f"of --check and --write ({kind.usual_path})",
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--check",
            action="store_true",
            help="say in what the file differs; 1 if it does, 3 if it could not tell",
        )
        how.add_argument("--write", action="store_true", help="make the file say so")

    def handle(self, *args: Any, **options: Any) -> None:
        [kind] = [kind for kind in KINDS if kind.name == options["kind"]]
        if options["file"] and not (options["check"] or options["write"]):
            self.usage(f"{kind.place_flag} is of --check and --write: give one of them")
        if queues.broken_modules:
            self.warn_of_broken_modules()
            raise CommandError(
                "so what is declared is not known, and nothing is written: mend the import first"
            )
        if not options["check"]:
            for remark in kind.remarks(options):
                self.warn(remark)
        if not (options["check"] or options["write"]):
            self.stdout.write(kind.text(options), ending="")
            return
        documents = kind.documents(options)
        if options["write"]:
            self._write(documents)
        else:
            self._check(documents)

    def _write(self, documents: Sequence[Document]) -> None:
        for document in documents:
            if document.current() == document.text:
                self._tell_as_declared(document)
                continue
            try:
                if document.text:
                    # For other users' programs, whatever root's umask; of a file that is there its owner has decided.
                    write_whole(document.path, document.text, mode=None if document.path.exists() else 0o644)
                else:
                    document.path.unlink()
            except OSError as error:
                mend = "; make its directory first" if isinstance(error, FileNotFoundError) else ""
                problem = f"{document.path} cannot be written: {error.strerror}{mend}"
                raise CommandError(self._with_done(problem)) from error
            what = "written" if document.text else "removed"
            self.done = f"{document.path} is {what}"
            self.stdout.write(f"{document.path}: {what}")

    def _check(self, documents: Sequence[Document]) -> None:
        found = [(document, document.current()) for document in documents]
        differing = []
        for document, current in found:
            if current == document.text:
                self._tell_as_declared(document)
                continue
            difference = difflib.unified_diff(
                current.splitlines(keepends=True),
                document.text.splitlines(keepends=True),
                fromfile=str(document.path),
                tofile="as declared",
            )
            self._tell("".join(difference))
            differing.append(str(document.path))
        self._owes_answer = False
        if differing:
            raise CommandError(
                f"{', '.join(differing)} does not say what is declared: the same command with --write mends it"
            )

    def _tell_as_declared(self, document: Document) -> None:
        self._tell(f"{document.path}: as declared\n")

    def _tell(self, answer: str) -> None:
        try:
            self.stdout.write(answer, ending="")
            self.stdout.flush()
        except OutputLost as error:
            # The exit code is the answer, whether anybody wants to read more of it or not.
            if not error.is_reader_gone:
                raise

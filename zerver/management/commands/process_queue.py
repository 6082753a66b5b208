"""``process_queue``: one worker process."""

import errno
import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core import checks
from django.core.management.base import CommandError
from django.db import DatabaseError

from zerver.lib.conf import get_settings
from zerver.lib.database_trouble import is_unmigrated
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.shard_names import shard_name
from zerver.management.base import QueueCommand
from zerver.management.dev.address import Address
from zerver.management.options import address
from zerver.models import WorkerProcess
from zerver.monitoring.log_format import show_where_nobody_does
from zerver.tasker import routing
from zerver.worker.database_guard import STORE_ERRORS
from zerver.worker.fleet import WorkerFleet
from zerver.worker.queue_processors import get_active_worker_queues
from zerver.worker.service_manager import ServiceManager
from zerver.worker.stop_signals import StopSignals
from zerver.worker.vitals import Vitals

#: Errors that this process outlives: a worker module of somebody else that cannot be read, and a database that is
#: away for now. Both are told; neither mends itself by our not starting.
_OUTLIVED = ("zerver.E006", "zerver.E009")


class Command(QueueCommand):
    """Exit codes: 0 drained, 1 a failure told in one line, 2 usage, 70 a handler that nothing could stop, 130 a second
    Ctrl-C.

    Of the system checks, other apps' are no business of a worker; its own are run in ``_refuse_nonsense``.
    """

    help = "Run one worker process until SIGTERM: of one queue, of all, or of some, a thread each."

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--queue",
            "--queue_name",
            metavar="NAME",
            help="the queue whose worker to run; of one that has shards, all of them: NAME.0 runs one",
        )
        which.add_argument(
            "--all",
            action="store_true",
            help="every enabled queue in this one process, a thread for each of its workers",
        )
        which.add_argument(
            "--multi_threaded",
            nargs="+",
            metavar="NAME",
            help="these queues in this one process, a thread for each of their workers",
        )
        parser.add_argument(
            "--worker_num",
            type=_worker_number,
            metavar="N",
            help="with --queue: number of this process among the queue's",
        )
        parser.add_argument(
            "--health-file", type=Path, metavar="PATH", help="kept fresh while the process is well"
        )

        parser.add_argument(
            "--health-listen",
            metavar="HOST:PORT",
            type=address,
            help="answer probes at http://HOST:PORT/live and /ready; PORT alone: on 127.0.0.1",
        )

        self._usage_error = parser.error

    def handle(self, *args: Any, **options: Any) -> None:
        # Before anything else is started, which must not inherit it.
        manager = ServiceManager.named_by(os.environ)
        stop_signals = StopSignals()
        # Before anything that may take its time: checks ask the database, and the fleet its broker.
        stop_signals.install()
        if options["worker_num"] is not None and options["queue"] is None:
            self._usage_error(
                "argument --worker_num: only with --queue; other processes number their workers"
            )
        show_where_nobody_does(get_settings().log_format)
        for module, why in queues.broken_modules.items():
            self.stderr.write(f"{module} failed to import ({why}); its queues are not run")
        self._refuse_nonsense()
        _refuse_no_database()
        if options["health_file"] is not None:
            _refuse_unwritable(options["health_file"])
        fleet = WorkerFleet(
            self._queues(options),
            get_settings(),
            worker_num=options["worker_num"],
            has_all_workers=options["queue"] is None or _is_family(options["queue"]),
            vitals=_vitals(options, manager),
            stop_signals=stop_signals,
        )
        failures = fleet.run()
        if failures:
            cause = failures[0] if len(failures) == 1 else ExceptionGroup("queues that did not run", failures)
            raise CommandError("; ".join(map(str, failures))) from cause

    def _refuse_nonsense(self) -> None:
        """Raises: CommandError with the first error of settings, declarations or database, and its mend."""
        found = checks.run_checks(tags=["queues"], databases=[get_settings().database])
        for message in found:
            if message.is_serious() and not message.is_silenced() and message.id not in _OUTLIVED:
                raise CommandError(f"{message.id}: {message.msg}; {message.hint}")

    def _queues(self, options: dict[str, Any]) -> list[QueueDeclaration]:
        settings = get_settings()
        if settings.scheme == "immediate":
            raise CommandError("QUEUE_URL=immediate:// consumes where it publishes; there is nothing to run")
        queues.apply_overrides(settings.overrides)
        names = (
            get_active_worker_queues() if options["all"] else options["multi_threaded"] or [options["queue"]]
        )
        if options["worker_num"] is not None and _is_family(options["queue"]):
            self._usage_error(
                f"argument --worker_num: {options['queue']} has shards, each with a worker of its own; leave it out, "
                f"or run one: --queue={shard_name(options['queue'], 0)}"
            )
        _refuse_other_backends(names)
        found = [queues.lookup(name) for name in queues.expand(names)]
        if not found:
            raise CommandError("no worker declares a queue; declare one with @assign_queue")
        return found


def _refuse_other_backends(names: Sequence[str]) -> None:
    """Raises: CommandError for a queue of tasks that worker processes have nothing to do with."""
    for name in names:
        if name in routing.known_queues() and not routing.backend_of(name).has_worker_processes:
            backend = type(routing.backend_of(name)).__name__
            raise CommandError(
                f"queue {name!r} is one of tasks, which {backend} carries: run ./manage.py queue_tasks process "
                f"--loop --queue={name}"
            )


def _is_family(name: str) -> bool:
    """It stands for several queues, which this one process runs."""
    return queues.expand([name]) != [name]


def _refuse_no_database() -> None:
    """One that is away, locked or not migrated is waited for. What is no database will never be one.

    Raises: DatabaseError, of which the command's base makes a line.
    """
    try:
        WorkerProcess.objects.using(get_settings().database).exists()
    except STORE_ERRORS:
        return
    except DatabaseError as error:
        if not is_unmigrated(error):
            raise


def _vitals(options: dict[str, Any], manager: ServiceManager) -> Vitals:
    """Raises: CommandError when nobody can listen where it is wanted."""
    listen: Address | None = options["health_listen"]
    try:
        return Vitals(
            health_file=options["health_file"],
            listen=None if listen is None else (listen.host, listen.port),
            manager=manager,
        )
    except OSError as error:
        raise CommandError(
            f"--health-listen {listen} cannot be listened on ({error.strerror or error}); name an address of this host "
            "and a port that nobody has: each worker process needs its own"
        ) from error


def _refuse_unwritable(health_file: Path) -> None:
    """By writing beside it, as the worker will: the file itself would tell probes of a health that is not there yet.

    Raises: CommandError.
    """
    try:
        if health_file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        trial = health_file.with_name(f"{health_file.name}.{os.getpid()}.new")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise CommandError(
            f"--health-file {str(health_file)!r} cannot be written: {error.strerror or error}; "
            "name a file in a directory that is there and that this user may write"
        ) from error


def _worker_number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ArgumentTypeError(f"{text!r} is no whole number, 0 or more")
    return int(text)

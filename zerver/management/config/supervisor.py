"""supervisord's programs."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from django.core.management.base import CommandError

from zerver.deployment import supervisor
from zerver.deployment.memory import WORKER_MB, host_memory_mb, is_multiprocess
from zerver.management.config.kind import (
    Document,
    Kind,
    Options,
    add_no_scheduler,
    has_scheduler,
    programs_here,
)
from zerver.management.config.site_options import add_site, left_out, site_of
from zerver.management.options import whole_number


class Supervisor(Kind):
    name = "supervisor"
    help = "supervisord's programs, as puppet writes them"
    description = (
        "Prints supervisord's programs, byte for byte as zulip::app_frontend writes them. What is not given "
        "follows from what is, as there: the user from the name, the directory from the user's home; and whether each "
        "worker has a process of its own, from the host's memory and from the file as it is now."
    )
    usual_path = "/etc/supervisor/conf.d/NAME.conf"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_site(parser)
        add_no_scheduler(parser)
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument(
            "--multi-threaded",
            action="store_true",
            help="one process for all queues, a thread for each worker, whatever the memory",
        )
        mode.add_argument(
            "--multiprocess", action="store_true", help="a process for each worker, whatever the memory"
        )
        parser.add_argument(
            "--memory-mb", type=whole_number, metavar="MB", help="of the host that it is for (this one's)"
        )
        parser.add_argument(
            "--worker-mb",
            type=whole_number,
            metavar="MB",
            help=f"what a worker process takes ({WORKER_MB})",
        )

    def text(self, options: Options) -> str:
        return supervisor.render(
            site_of(options),
            programs_here(),
            has_scheduler=has_scheduler(options),
            is_multi_threaded=not _has_process_each(options),
        )

    def documents(self, options: Options) -> Sequence[Document]:
        return [Document(path=_path(options), text=self.text(options))]

    def remarks(self, options: Options) -> Sequence[str]:
        is_now, will_be = _is_multiprocess_now(options), _has_process_each(options)
        remarks = left_out(options)
        # Of a host where nothing runs yet, what is usual is not told.
        if will_be is (is_now is not False):
            return remarks
        mode = (
            "a process for each worker" if will_be else "one process for all queues, a thread for each worker"
        )
        change = "" if is_now is None else "; until now it was not so"
        return [
            *remarks,
            f"{_path(options)}: {mode}{change} (--multiprocess and --multi-threaded say how it should be)",
        ]


def _path(options: Options) -> Path:
    return options["file"] or Path(f"/etc/supervisor/conf.d/{site_of(options).name}.conf")


def _is_multiprocess_now(options: Options) -> bool | None:
    try:
        return supervisor.is_multiprocess(_path(options).read_text())
    except (OSError, UnicodeDecodeError):
        return None


def _has_process_each(options: Options) -> bool:
    if options["multiprocess"] or options["multi_threaded"]:
        if options["memory_mb"] or options["worker_mb"]:
            raise CommandError(
                "--memory-mb and --worker-mb are for the choice by memory: with --multiprocess or --multi-threaded "
                "there is none",
                returncode=2,
            )
        return bool(options["multiprocess"])
    return is_multiprocess(
        workers=sum(program.workers for program in programs_here()),
        worker_mb=options["worker_mb"] or WORKER_MB,
        memory_mb=options["memory_mb"] or host_memory_mb(),
        is_now=_is_multiprocess_now(options),
    )

"""``queue_dev``: the whole project in the foreground, for development and for a demonstration."""

import os
import signal
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandError
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from zerver.lib.conf import get_settings
from zerver.lib.counted import counted
from zerver.lib.transport import current
from zerver.management.base import QueueCommand
from zerver.management.dev import report, services
from zerver.management.dev.address import Address, free_local_address, require_free
from zerver.management.dev.console import Console
from zerver.management.dev.demo import WEBHOOK_QUEUE, Demo, DemoResult
from zerver.management.dev.errors import DevError
from zerver.management.dev.lanes import Lanes, look_at_lanes
from zerver.management.dev.supervisor import Changed, Stop, Supervisor
from zerver.management.dev.tally import Ledger, database_name
from zerver.management.dev.watcher import Watcher, project_directories
from zerver.management.dev.webhooks import Sender, read_webhooks
from zerver.management.options import address
from zerver.worker.queue_processors import get_active_worker_queues

_WEBHOOKS = Path("tests/data/github-webhooks.jsonl")
_DEFAULT_ADDRESS = Address(host="127.0.0.1", port=8000)


class Command(QueueCommand):
    """``--demo --json`` prints what ``zerver.management.dev.report.as_json`` describes."""

    help = (
        "Runs every queue's worker, the scheduler where there is one, and a web server until Ctrl-C; all start anew "
        "when code changes. "
        "A second Ctrl-C kills what still runs. With --demo: posts a file of webhooks to the web server, waits until "
        "every queue is empty, prints what became of them, and ends."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        web = parser.add_mutually_exclusive_group()
        web.add_argument("--no-web", action="store_true", help="no web server")
        web.add_argument(
            "--web",
            metavar="HOST:PORT",
            type=address,
            help=f"where the web server listens; default: {_DEFAULT_ADDRESS}, a free port with --demo",
        )
        parser.add_argument("--no-reload", action="store_true", help="do not start anew when code changes")
        parser.add_argument(
            "--demo",
            metavar="FILE",
            nargs="?",
            const=_WEBHOOKS,
            type=Path,
            help=f'a JSON object a line, {{"source", "event", "payload"}}; default: {_WEBHOOKS}',
        )
        parser.add_argument("--json", action="store_true", help="with --demo: the result as JSON on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["demo"] is None and options["json"]:
            self.usage("--json shows the result of --demo: give both")
        if options["demo"] is not None and options["no_web"]:
            self.usage("--demo posts to the web server: leave --no-web out")
        _check_project()
        self.warn_of_broken_modules()
        if options["demo"] is None:
            self._develop(options)
        else:
            self._demonstrate(options)

    def _develop(self, options: dict[str, Any]) -> None:
        passed_on = _passed_on(options)
        running = [services.workers(passed_on)]
        if apps.is_installed("zerver.schedule"):
            running.append(services.scheduler(passed_on))
        if not options["no_web"]:
            web = options["web"] or _DEFAULT_ADDRESS
            require_free(web)
            running.append(services.web(web, passed_on, {}))
        console = Console(lambda: supervisor.post(Stop()))
        supervisor = Supervisor(running, console)
        console.note(f"queues: {', '.join(get_active_worker_queues())}, over {_carried_by()}")
        with ExitStack() as stack:
            stack.enter_context(_stopping_on_signals(supervisor))
            if not options["no_reload"]:
                directories = project_directories()
                stack.enter_context(
                    Watcher(directories, lambda what: supervisor.post(Changed(what)), console.note)
                )
                console.note(f"watching {', '.join(map(str, directories))} for changes")
            console.note("Ctrl-C stops everything")
            supervisor.run()
        console.note("stopped")

    def _demonstrate(self, options: dict[str, Any]) -> None:
        if not apps.is_installed("zerver.contrib.webhooks"):
            raise DevError("--demo posts webhooks: add zerver.contrib.webhooks to INSTALLED_APPS")
        alias = get_settings().database
        sender = Sender(read_webhooks(_found(options["demo"])))
        web = options["web"] or free_local_address()
        require_free(web)
        passed_on = _passed_on(options)
        console = Console(lambda: supervisor.post(Stop()), quiet=True)
        running = [services.workers(passed_on), services.web(web, passed_on, sender.environment)]
        supervisor = Supervisor(running, console, restart=False)
        demo = Demo(sender, Ledger(alias, sender.delivery_prefix), console)
        thread = threading.Thread(
            target=demo.run, args=(web, supervisor.stopping, lambda: supervisor.post(Stop())), name="demo"
        )
        lanes = look_at_lanes(WEBHOOK_QUEUE)
        console.note(f"posting {counted(sender.count, 'webhook')} to {web}, over {lanes.carried_by}")
        for name, why in lanes.away.items():
            console.note(f"{name} is away, so the other lane carries everything: {why}")
        with _stopping_on_signals(supervisor):
            thread.start()
            supervisor.run()
            thread.join()
            result = demo.result()
        # A death comes first: that the demonstration was stopped is only what followed from it.
        result = replace(result, problem=supervisor.failure or result.problem)
        if result.problem:
            console.show_tail()
        lanes = lanes.and_then(look_at_lanes(WEBHOOK_QUEUE))
        self._show(result, lanes, database_name(alias), as_json=options["json"])
        if result.problem:
            raise CommandError(result.problem)

    def _show(self, result: DemoResult, lanes: Lanes, database: str, *, as_json: bool) -> None:
        if as_json:
            self.write_json(report.as_json(result, lanes, database))
            return
        self.write_table(report.COLUMNS, report.table_rows(result), empty="nothing happened")
        for line in report.summary_lines(result, lanes, database):
            self.stdout.write(line)


@contextmanager
def _stopping_on_signals(supervisor: Supervisor) -> Iterator[None]:
    """Ctrl-C, ``kill`` and a closed terminal end everything in good order."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup, it stays ignored
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: supervisor.post(Stop())) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_project() -> None:
    """What would make every process fail, or wait for ever, told once and at once. Raises: DevError."""
    chosen = get_settings()
    if chosen.scheme == "immediate":
        raise DevError("QUEUE_URL=immediate:// consumes where it publishes; use db:// or amqp://…")
    executor = MigrationExecutor(connections[chosen.database])
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        raise DevError(f"not applied: {counted(len(missing), 'migration')}; run ./manage.py migrate")


def _carried_by() -> str:
    return " and ".join(transport.name for transport in current.worker_lanes())


def _passed_on(options: dict[str, Any]) -> list[str]:
    """What each child must be told again; the settings module travels in the environment."""
    return [f"--pythonpath={options['pythonpath']}"] if options.get("pythonpath") else []


def _found(path: Path) -> Path:
    """A relative path is taken from where the command was typed, or else from the project's top."""
    top = Path(getattr(settings, "BASE_DIR", os.curdir))
    return top / path if not path.exists() and (top / path).exists() else path

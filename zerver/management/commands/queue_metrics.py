"""The queues for Prometheus: over HTTP, or as a file for node-exporter."""

import signal
import threading
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError

from zerver.lib.conf import get_settings
from zerver.lib.queue_stats import write_whole
from zerver.management.base import QueueCommand
from zerver.management.dev.address import Address
from zerver.management.options import address

if TYPE_CHECKING:
    from zerver.monitoring.metrics.look import QueueCollector

#: Any user may read it: node-exporter runs as one of its own, and there is nothing secret in it.
_FILE_MODE = 0o644


class Command(QueueCommand):
    help = (
        "Tells Prometheus what waits, what failed and who works, per queue: at /metrics over HTTP until it is told to "
        "stop, or once into a file. What nothing can know is left out, never 0; zerver_up says what could not be asked."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        how = parser.add_mutually_exclusive_group(required=True)
        how.add_argument(
            "--listen",
            metavar="HOST:PORT",
            type=address,
            help="serve http://HOST:PORT/metrics until SIGTERM or Ctrl-C; PORT alone: on 127.0.0.1",
        )
        how.add_argument(
            "--textfile",
            metavar="PATH",
            type=_textfile,
            help="write this file once, for the textfile collector of node-exporter: PATH ends in .prom",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            # Optional, and so are all that import it.
            from zerver.monitoring.metrics.look import QueueCollector
        except ImportError as error:
            raise CommandError(str(error)) from error
        get_settings()  # nonsense is told now, and not at the first scrape
        self.warn_of_broken_modules()
        if options["listen"] is not None:
            self._serve(options["listen"], QueueCollector())
        else:
            self._write(options["textfile"], QueueCollector())

    def _serve(self, where: Address, collector: "QueueCollector") -> None:
        from zerver.monitoring.metrics.server import MetricsServer

        try:
            server = MetricsServer(where.host, where.port, collector)
        except OSError as error:
            raise CommandError(
                f"{where} cannot be listened on ({error.strerror or error}); choose another with --listen HOST:PORT"
            ) from error
        # Before any other thread is there, so that they come to none but sigwait.
        ends = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        with server:
            threading.Thread(target=server.serve_forever, name="zerver-metrics", daemon=True).start()
            self.warn(f"serving http://{where}/metrics")
            signal.sigwait(ends)
            server.shutdown()

    def _write(self, path: Path, collector: "QueueCollector") -> None:
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(collector)
        text = generate_latest(registry).decode()
        try:
            write_whole(path, text, mode=_FILE_MODE)
        except OSError as error:
            raise CommandError(
                f"{path} cannot be written: {error.strerror or error}; what was there stays"
            ) from error
        for problem in collector.seen.problems if collector.seen else ():
            self.warn(problem)


def _textfile(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".prom":
        raise ArgumentTypeError(
            f"{text!r}: node-exporter reads files whose names end in .prom, and no others"
        )
    return path

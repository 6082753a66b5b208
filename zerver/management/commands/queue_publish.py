"""Events from the command line, a file or a pipe."""

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from django.core.management.base import CommandError

from zerver.lib.counted import counted
from zerver.lib.errors import ConfigurationError, EventError
from zerver.lib.event import decode_json
from zerver.lib.printable import one_line
from zerver.lib.queue import MAX_DELAY_SECONDS, queue_json_publish, queue_json_publish_many
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.management.base import QueueCommand, is_terminal
from zerver.management.display import Bar, progress
from zerver.management.event_lines import BadLine, LineEvent, read_events
from zerver.management.line_source import LineSource

#: Published with one wait for the broker; so many may come twice if this process dies before it has said what it did.
CHUNK = 500
#: Refused lines that people are told of, one by one: who has given the wrong file sees it by then.
TOLD = 10


@dataclass(slots=True)
class Tally:
    """What has become of the events so far."""

    published: int = 0
    refused: list[BadLine] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.refused:
            return f"published {self.published}"
        return f"published {self.published}, refused {len(self.refused)} (nothing of the refused was sent)"


class Command(QueueCommand):
    """``--json``, for one event: ``{"queue", "message_id"}``; for many: ``{"queue", "published", "refused": [{"place",
    "problem"}]}``. Exit code 1 when anything was refused.
    """

    help = (
        "Publishes one event, or one a line. A line is a JSON object, or a stamp, a tab and a JSON object, or as in "
        "Zulip's .errors files an array of them. A line that is refused is named, and the others are published, "
        f"{CHUNK} at a time, or as many as have come when no more come for a moment."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queue", metavar="NAME")
        parser.add_argument(
            "event", metavar="JSON", nargs="?", help="one event; - reads lines from standard input"
        )
        parser.add_argument("--file", metavar="F", type=Path, help="read lines from this file")
        parser.add_argument(
            "--delay", metavar="SECONDS", type=_delay, default=0.0, help="due so many seconds from now"
        )
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        queues.lookup(options["queue"])
        if options["delay"] and current.immediate() is not None:
            raise CommandError(
                "QUEUE_URL=immediate:// keeps what is due later in this process, which ends now; nothing was published"
            )
        if (options["event"] is None) == (options["file"] is None):
            self.usage("give one event as JSON, or - for standard input, or --file F")
        if options["event"] not in (None, "-"):
            self._publish_one(options)
            return
        with _source(options["file"]) as (file, name, total_bytes):
            self._publish_lines(LineSource(file), name, total_bytes, options)

    def _publish_one(self, options: dict[str, Any]) -> None:
        event = decode_json(options["event"].encode(errors="surrogateescape"))
        self.done = "the event may have been published"
        with self._sends(refused=""):
            message_id = queue_json_publish(options["queue"], event, delay_seconds=options["delay"])
        self.done = f"the event was published, under message id {message_id}"
        if options["json"]:
            self.write_json({"queue": options["queue"], "message_id": message_id})
        else:
            self.stdout.write(message_id)

    def _publish_lines(
        self, lines: LineSource, name: str, total_bytes: int | None, options: dict[str, Any]
    ) -> None:
        tally = Tally()
        # A bar would be drawn over what somebody types.
        is_typed = options["file"] is None and is_terminal(sys.stdin)
        what = f"publishing to {options['queue']}"
        try:
            with progress(what, total_bytes, self.warn, is_shown=not is_typed) as bar:
                number = 1
                for batch in lines.batches(CHUNK):
                    found = read_events(batch, name, first=number)
                    number += len(batch)
                    while chunk := list(islice(found, CHUNK)):
                        self._publish_chunk(chunk, tally, bar, options)
                    bar.advance(sum(map(len, batch)))
        except KeyboardInterrupt:
            if lines.in_hand:
                read = f"{counted(lines.in_hand, 'line')} read and not sent"
                self.done = f"{self.done or tally}; {read}"
            raise
        if len(tally.refused) > TOLD:
            self.warn(f"… and {len(tally.refused) - TOLD} more")
        if options["json"]:
            refused = [{"place": bad.place, "problem": bad.problem} for bad in tally.refused]
            self.write_json({"queue": options["queue"], "published": tally.published, "refused": refused})
        if tally.refused:
            raise CommandError(str(tally))
        if not options["json"]:
            self.stdout.write(str(tally))

    def _publish_chunk(
        self, chunk: Sequence[LineEvent | BadLine], tally: Tally, bar: Bar, options: dict[str, Any]
    ) -> None:
        """What is refused is put down and told in the order of the lines."""
        self.done = f"{tally}; some of the next {len(chunk)} may have been published too"
        good = [item for item in chunk if isinstance(item, LineEvent)]
        with self._sends(refused=str(tally)):
            reports = queue_json_publish_many(
                options["queue"], [item.event for item in good], delay_seconds=options["delay"]
            )
        answers = iter(reports)
        refused = []
        for item in chunk:
            if isinstance(item, BadLine):
                refused.append(item)
            elif (error := next(answers).error) is not None:
                refused.append(BadLine(place=item.place, problem=one_line(error)))
        for bad in refused[: max(TOLD - len(tally.refused), 0)]:
            bar.say(f"{bad.place}: {bad.problem}")
        tally.refused += refused
        tally.published += len(chunk) - len(refused)
        self.done = str(tally)

    @contextmanager
    def _sends(self, *, refused: str) -> Iterator[None]:
        """``refused``: what has been done where the event, or a setting, is refused before anything is sent."""
        try:
            yield
        except (ConfigurationError, EventError):
            self.done = refused
            raise


@contextmanager
def _source(path: Path | None) -> Iterator[tuple[BinaryIO, str, int | None]]:
    """Yields (file, its name, size in bytes where known)."""
    if path is None:
        if sys.stdin is None:
            raise CommandError("standard input is closed: give lines to it, or --file F")
        yield sys.stdin.buffer, "<stdin>", None
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from error
    with file:
        yield file, str(path), path.stat().st_size


def _delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise ArgumentTypeError(f"{text!r} is no number of seconds from 0 to a hundred years")
    return seconds

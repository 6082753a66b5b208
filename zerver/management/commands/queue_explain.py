"""Where an event is or what became of it; why a queue does not move."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.core.management.base import CommandError

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.errors import UnknownQueue
from zerver.lib.printable import printable
from zerver.lib.registry import queues
from zerver.management.base import QueueCommand
from zerver.management.options import seconds
from zerver.management.output import Column, moment
from zerver.monitoring.asking import Asked
from zerver.monitoring.checkup import locks
from zerver.monitoring.checkup.examination import TIMEOUT_SECONDS
from zerver.monitoring.checkup.finding import Finding
from zerver.monitoring.explain import event, ids, queue

T = TypeVar("T")

_SIGHTINGS = [Column("where"), Column("queue"), Column("attempt", is_number=True), Column("what")]
_REPLAYS = [Column("message id"), Column("is its"), Column("which is")]
_REASONS = [Column("code"), Column("what, why, and what to do")]


class Command(QueueCommand):
    """``--json``, of an event: ``{"event": {"message_id", "found", "published_at_ms", "verdict", "sightings":
    [{"place", "queue", "attempt", "at_ms", "what"}], "replays": [{"message_id", "relation", "verdict"}],
    "could_be": [text], "not_asked": [text]}}``; ``place`` is ``event-table``, ``failed``, ``suspect`` or ``inbox``,
    ``relation`` ``original`` or ``replay``. Of a queue: ``{"queue": {"queue", "moves", "verdict",
    "rate_per_minute", "ready", "later", "next_due_at_ms", "reasons": […], "not_looked_at": […]}}``, the last two as
    ``queue_check`` has its findings; of a queue that has shards, ``{"queues": […]}``. Null where nothing can know.
    """

    help = (
        "Tells where an event is, or what became of it; or why a queue does not move, likeliest reason first."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "what",
            metavar="MESSAGE_ID|QUEUE",
            help=f"a message id, or its first {ids.PREFIX_LENGTH} characters or more; or a queue",
        )
        parser.add_argument(
            "--look",
            metavar="SECONDS",
            type=seconds,
            default=queue.LOOK_SECONDS,
            help=f"how long to look at the workers of a queue where something is due ({queue.LOOK_SECONDS:g})",
        )
        parser.add_argument(
            "--timeout",
            metavar="SECONDS",
            type=seconds,
            default=TIMEOUT_SECONDS,
            help=f"how long broker and database may take to answer ({TIMEOUT_SECONDS:g})",
        )
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["what"] in queues.names():
            self._tell_queues(queues.expand([options["what"]]), options)
            return
        found = self._answer(options, lambda: ids.find_ids(options["what"], get_settings().database))
        if not found:
            self._tell_unknown(options)
        elif len(found) > 1:
            raise CommandError(f"several message ids begin with {options['what']}: {', '.join(found)}")
        else:
            self._tell_event(found[0], options)

    def _tell_unknown(self, options: dict[str, Any]) -> None:
        """No id that anything knows: a queue that nobody declares and that holds something, or an id that is gone.

        Raises: CommandError.
        """
        what = options["what"]
        if ids.is_id(what):
            self._tell_event(what, options)
            return
        try:
            self._tell_queues([what], options)
        except UnknownQueue as error:
            no_id = (
                f"{what!r} is too short for a message id, of which {ids.PREFIX_LENGTH} characters are needed"
                if len(what) < ids.PREFIX_LENGTH
                else f"nothing that is kept knows a message id that begins with {what!r}"
            )
            raise CommandError(f"{no_id}, and {error}") from error

    def _tell_event(self, message_id: str, options: dict[str, Any]) -> None:
        timeout_seconds = options["timeout"]
        story = self._answer(
            options,
            lambda: event.tell(message_id, get_settings(), timeout_seconds=timeout_seconds),
            # First the database, then the broker.
            more_seconds=timeout_seconds,
        )
        if options["json"]:
            self.write_json({"event": story.as_json()})
            return
        self.stdout.write(printable(f"{story.message_id}, published at {moment(story.published_at_ms)}"))
        self.stdout.write(printable(story.verdict))
        if story.sightings:
            self.write_table(_SIGHTINGS, [_sighting(each) for each in story.sightings], empty="")
        if story.replays:
            rows = [[each.message_id, each.relation, each.verdict] for each in story.replays]
            self.write_table(_REPLAYS, rows, empty="")
        for guess in story.could_be:
            self.stdout.write(printable(f"it may be: {guess}"))
        for problem in story.not_asked:
            self.stdout.write(printable(f"not asked: {problem}"))

    def _tell_queues(self, names: Sequence[str], options: dict[str, Any]) -> None:
        """One; or all shards of one, each by itself."""
        stories = [self._story(name, options) for name in names]
        if options["json"] and len(stories) == 1:
            self.write_json({"queue": stories[0].as_json()})
        elif options["json"]:
            self.write_json({"queues": [story.as_json() for story in stories]})
        else:
            for story in stories:
                self._tell_queue(story)

    def _story(self, name: str, options: dict[str, Any]) -> queue.QueueStory:
        timeout_seconds, look_seconds = options["timeout"], options["look"]
        return self._answer(
            options,
            lambda: queue.tell(
                name, get_settings(), timeout_seconds=timeout_seconds, look_seconds=look_seconds
            ),
            # It has a deadline for its first look, and asks a database that has answered that.
            more_seconds=timeout_seconds + look_seconds,
        )

    def _tell_queue(self, story: queue.QueueStory) -> None:
        self.stdout.write(printable(f"{story.queue}: {story.verdict}"))
        if story.reasons:
            self.write_table(_REASONS, [_reason(each) for each in story.reasons], empty="")
        for gap in story.gaps:
            self.stdout.write(printable(f"not looked at: {gap.source}: {gap.what}"))

    def _answer(self, options: dict[str, Any], question: Callable[[], T], *, more_seconds: float = 0) -> T:
        """Raises: CommandError when it does not come in time."""
        until = clock.monotonic() + options["timeout"] + more_seconds
        alias = get_settings().database
        try:
            return locks.answer(Asked(question), alias, until)
        except locks.HeldUp as error:
            problem = f"the database {alias!r} has not answered within {options['timeout']:g} s"
            mend = locks.mend(error.holders)
            raise CommandError(
                f"{problem}{locks.told(error.holders)}{f'; {mend}' if mend else ''}"
            ) from error


def _sighting(sighting: event.Sighting) -> list[str]:
    attempt = "" if sighting.attempt is None else str(sighting.attempt)
    return [sighting.place, sighting.queue, attempt, sighting.what]


def _reason(reason: Finding) -> list[str]:
    return [reason.code, f"{reason.what};\n{reason.why}.\nMend: {reason.mend}"]

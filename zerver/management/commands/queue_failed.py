"""Failed events: look, replay, discard."""

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError
from django.db.models import QuerySet

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.counted import counted
from zerver.lib.database import streamed
from zerver.lib.database_trouble import unavailable
from zerver.lib.errors import BodyUnreadable, EventError, TransportError, UnknownQueue
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import body_of, discard, prune, replay, saying, select
from zerver.lib.printable import one_line
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.shard_names import family_of
from zerver.management import failed_listing
from zerver.management.base import QueueCommand, is_terminal
from zerver.management.display import progress
from zerver.management.editor import Draft, drafting
from zerver.management.options import add_by
from zerver.models import FailedEvent
from zerver.monitoring.explain.ids import PREFIX_LENGTH

#: Rows held in memory at once: bodies may be large.
_CHUNK = 50
_ID_HELP = f"message id, or its first {PREFIX_LENGTH} characters or more, or id in the list"
_EVERY_STATE = tuple(FailedEvent.State.values)


@dataclass(slots=True)
class Report:
    """What became of the failed events that an operator meant."""

    #: What has been done with it: "replayed", "discarded".
    verb: str
    done: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.verb} {len(self.done)}" + (
            f", left {len(self.skipped)} as they are" if self.skipped else ""
        )


class Command(QueueCommand):
    """``list --json``: ``{"failed": [{"id", "queue", "message_id", "attempt", "state", "error", "published_at_ms",
    "failed_at_ms", "worker", "resolved_at_ms", "resolved_by", "replay_message_id"}]}``; ``show --json`` adds "headers",
    "traceback", "body" (JSON, its numbers as they are stored), "body_base64" (where it is none) and "redacted" (the
    fields of the body that are not shown; ``["*"]``: all of it). ``replay`` and ``discard``: ``{"replayed" or
    "discarded": [{"id", "message_id", "new_message_id"}], "skipped": [{"id", "message_id", "problem"}]}``, and exit
    code 1 when anything was skipped. ``prune``: ``{"pruned": count}``.
    """

    help = "Shows the events that no worker could deal with, and replays or discards them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

        listing = verbs.add_parser("list", help="those that nobody has replayed or discarded, newest first")
        _add_filters(listing)
        listing.add_argument("--all", action="store_true", help="replayed and discarded ones too")

        showing = verbs.add_parser("show", help="everything about some: body, headers, traceback")
        showing.add_argument("ids", metavar="ID", nargs="+", help=_ID_HELP)
        showing.add_argument("--reveal", action="store_true", help="fields that the queue redacts too")

        replaying = verbs.add_parser("replay", help="publishes each anew, with the same body, oldest first")
        _add_choice(replaying)
        replaying.add_argument("--rate", metavar="N", type=_rate, help="at most so many a second")
        replaying.add_argument(
            "--edit", action="store_true", help="one event, its body changed in $EDITOR first"
        )
        replaying.add_argument(
            "--reveal",
            action="store_true",
            help="with --edit: although the editor shows fields that are redacted",
        )

        discarding = verbs.add_parser(
            "discard", help="notes that nobody wants them any more; they stay listed with --all"
        )
        _add_choice(discarding)

        pruning = verbs.add_parser("prune", help="deletes old ones for good, whatever became of them")
        pruning.add_argument(
            "--older-than",
            metavar="DAYS",
            type=_days,
            help="failed so long ago; default: QUEUE_RETENTION_DAYS",
        )
        pruning.add_argument("--queue", metavar="NAME")
        for verb in (discarding, pruning):
            verb.add_argument("--yes", action="store_true", help="do not ask")
        for verb in (listing, showing, replaying, discarding, pruning):
            self.add_json(verb)

    def handle(self, *args: Any, **options: Any) -> None:
        verbs: dict[str, Callable[[dict[str, Any]], None]] = {
            "list": self._list,
            "show": self._show,
            "replay": self._replay,
            "discard": self._discard,
            "prune": self._prune,
        }
        self.reach_database()
        every = select(alias=_alias(), states=_EVERY_STATE)
        self.check_queue_name(options.get("queue"), every, "failed events")
        verbs[options["verb"]](options)

    def _list(self, options: dict[str, Any]) -> None:
        states = _EVERY_STATE if options["all"] else (FailedEvent.State.FAILED,)
        listed = self._filtered(options, states).defer("body", "traceback", "headers")
        found = streamed(listed) if options["error"] is None else saying(listed, options["error"])
        if options["json"]:
            self.write_json({"failed": [failed_listing.summary(failed) for failed in found]})
            return
        rows = [failed_listing.row(failed) for failed in found]
        self.write_table(failed_listing.COLUMNS, rows, empty="no failed events")

    def _show(self, options: dict[str, Any]) -> None:
        found = failed_listing.by_ids(select(alias=_alias(), states=_EVERY_STATE), options["ids"])
        reveal = options["reveal"]
        if options["json"]:
            self.write_document(failed_listing.document(found, reveal=reveal))
        else:
            self.stdout.write("\n\n".join(failed_listing.text(failed, reveal=reveal) for failed in found))

    def _replay(self, options: dict[str, Any]) -> None:
        chosen = self._chosen(options)
        by, alias, reveal = options["by"], _alias(), options["reveal"]
        if reveal and not options["edit"]:
            self.usage("--reveal is for --edit: a replay shows no body")
        with self._edited(chosen, reveal=reveal) if options["edit"] else nullcontext() as body:

            def act(failed: FailedEvent) -> str | None:
                wanted = body_of(failed) if body is None else body
                place = _queue_of(failed).place(wanted)
                return replay(failed, by=by, alias=alias, body=body, queue=place)

            self._act(chosen, Report("replayed"), act, options)

    def _discard(self, options: dict[str, Any]) -> None:
        chosen = self._chosen(options)
        if len(chosen) > 1 and not options["yes"]:
            self.confirm(f"Discard {counted(len(chosen), 'failed event')}?", flag="--yes")
        by, alias = options["by"], _alias()
        self._act(
            chosen,
            Report("discarded"),
            lambda failed: "" if discard(failed, by=by, alias=alias) else None,
            options,
        )

    def _prune(self, options: dict[str, Any]) -> None:
        days = options["older_than"] or get_settings().retention_days
        alias, queue = _alias(), options["queue"]
        before_ms = EventTable(alias).days_ago_ms(days)
        if not options["yes"]:
            count = (
                select(alias=alias, queue=queue, states=_EVERY_STATE)
                .filter(failed_at_ms__lt=before_ms)
                .count()
            )
            self.confirm(
                f"Delete {counted(count, 'event')} that failed over {days:g} days ago?", flag="--yes"
            )
        self.done = "what was deleted until then stays deleted"
        pruned = prune(older_than_ms=before_ms, alias=alias, queue=queue)
        self.done = f"pruned {pruned}"
        if options["json"]:
            self.write_json({"pruned": pruned})
        else:
            self.stdout.write(f"pruned {pruned}")

    def _act(
        self,
        keys: list[int],
        report: Report,
        act: Callable[[FailedEvent], str | None],
        options: dict[str, Any],
    ) -> None:
        """One by one; ``act`` returns None for one that somebody else was faster with."""
        pace = _Pace(options.get("rate"))
        try:
            with progress(options["verb"], len(keys), self.warn) as bar:
                for failed in _rows(keys):
                    pace.wait()
                    if problem := _act_on(failed, report, act):
                        bar.say(f"{failed.pk} {failed.message_id}: {problem}")
                    bar.advance()
        except (KeyboardInterrupt, TransportError, DatabaseError) as error:
            left = len(keys) - len(report.done) - len(report.skipped)
            self.done = f"{report}; {left} are still to do, run it again"
            self._tell_json(report, options)
            if isinstance(error, KeyboardInterrupt):
                raise
            why = unavailable(_alias(), error) if isinstance(error, DatabaseError) else error
            raise CommandError(f"{one_line(why)}; {self.done}") from error
        self.done = str(report)
        self._tell(report, options)

    def _tell_json(self, report: Report, options: dict[str, Any]) -> None:
        if options["json"]:
            self.write_json({report.verb: report.done, "skipped": report.skipped})

    def _tell(self, report: Report, options: dict[str, Any]) -> None:
        self._tell_json(report, options)
        if report.skipped:
            raise CommandError(str(report))
        if not options["json"]:
            only = report.done[0]["new_message_id"] if len(report.done) == 1 else ""
            self.stdout.write(only or str(report))

    def _chosen(self, options: dict[str, Any]) -> list[int]:
        """Row ids of those that ids, filters or --all mean, oldest first; open ones only, unless named by id."""
        has_filter = any(options[name] is not None for name in ("queue", "error", "since"))
        if options["ids"] and (has_filter or options["all"]):
            self.usage("give ids, or say which by --queue, --error, --since or --all; not both")
        if not options["ids"] and not has_filter and not options["all"]:
            self.usage("say which: by id, --queue, --error, --since, or --all")
        if options["ids"]:
            found = failed_listing.by_ids(select(alias=_alias(), states=_EVERY_STATE), options["ids"])
        else:
            found = self._filtered(options, (FailedEvent.State.FAILED,))
        found = found.order_by("failed_at_ms", "pk")
        if options["error"] is None:
            return list(found.values_list("pk", flat=True))
        return [failed.pk for failed in saying(found.only("error", "sealed_with"), options["error"])]

    def _filtered(self, options: dict[str, Any], states: tuple[str, ...]) -> QuerySet[FailedEvent]:
        """By all but --error."""
        since_ms = None
        if options["since"] is not None:
            try:
                since_ms = failed_listing.parse_since(options["since"], EventTable(_alias()).now_ms())
            except ValueError as error:
                self.usage(f"--since: {error}")
        return select(alias=_alias(), queue=options["queue"], since_ms=since_ms, states=states)

    @contextmanager
    def _edited(self, keys: list[int], *, reveal: bool) -> Iterator[bytes]:
        """The body as the operator changed it, once it is an event that its queue takes; kept if anything fails."""
        found = list(_rows(keys[:2]))
        if len(found) != 1:
            self.usage("--edit is for one event; name it by its id")
        failed = found[0]
        if failed.state != FailedEvent.State.FAILED:
            raise CommandError(f"{failed.message_id} is {failed.state} already")
        queue = _queue_of(failed)
        if fields := failed_listing.hidden_fields(failed, reveal=reveal):
            self.usage(
                f"queue {queue.name!r} redacts {', '.join(fields)}, and an editor shows all of it: add --reveal"
            )
        body = failed_listing.editable_body(failed)
        if not is_terminal(sys.stdin):
            self.usage("--edit: this is no terminal to edit at")
        with drafting(body, suffix=".json", say=self.warn) as draft:
            yield self._edit(failed, queue, draft)

    def _edit(self, failed: FailedEvent, queue: QueueDeclaration, draft: Draft) -> bytes:
        """As often as the operator wants to try."""
        while True:
            written = draft.edit()
            if written is None:
                raise CommandError("the event was not changed; nothing was replayed")
            try:
                return failed_listing.edited_body(failed, written, queue, get_settings().max_event_bytes)
            except EventError as error:
                self.confirm(f"{one_line(error)}. Edit again?", flag="a terminal")


class _Pace:
    """Keeps to a rate, without catching up on what was slow."""

    def __init__(self, per_second: float | None) -> None:
        self._gap_seconds = 0.0 if per_second is None else 1 / per_second
        self._next = clock.monotonic()

    def wait(self) -> None:
        time.sleep(max(0.0, self._next - clock.monotonic()))
        self._next = clock.monotonic() + self._gap_seconds


def _act_on(failed: FailedEvent, report: Report, act: Callable[[FailedEvent], str | None]) -> str:
    """Do it, and put it into the report; why not, if not."""
    about = {"id": failed.pk, "message_id": failed.message_id}
    try:
        result = act(failed)
    except (UnknownQueue, BodyUnreadable, EventError) as error:
        result, problem = None, one_line(error)
    else:
        problem = "" if result is not None else "was replayed or discarded before"
    if problem:
        report.skipped.append({**about, "problem": problem})
    else:
        report.done.append({**about, "new_message_id": result})
    return problem


def _queue_of(failed: FailedEvent) -> QueueDeclaration:
    """What it was published to; be it a shard, the number of which may have changed since. Raises: UnknownQueue."""
    return queues.lookup(family_of(failed.queue))


def _rows(keys: list[int]) -> Iterator[FailedEvent]:
    """In the order of the keys; one that was pruned meanwhile is passed over."""
    for start in range(0, len(keys), _CHUNK):
        chunk = keys[start : start + _CHUNK]
        found = FailedEvent.objects.using(_alias()).in_bulk(chunk)
        yield from (found[key] for key in chunk if key in found)


def _add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--queue", metavar="NAME")
    parser.add_argument("--error", metavar="TEXT", help="part of the error, in any case of letters")
    parser.add_argument(
        "--since", metavar="TIME", help="failed since: 30m, 2h, 3d ago, or 2026-05-01T12:00 (UTC)"
    )


def _add_choice(parser: ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*", help=_ID_HELP)
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="every one in the list")
    add_by(parser)


def _alias() -> str:
    return get_settings().database


def _rate(text: str) -> float:
    return _above_zero(text, "a number of events a second")


def _days(text: str) -> float:
    return _above_zero(text, "a number of days")


def _above_zero(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not {what} above 0")
    return number

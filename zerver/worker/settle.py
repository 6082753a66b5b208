"""To turn an outcome into an ack or a deleted row, a later row, or a failed event.

Whatever is kept is stored before the delivery is acknowledged, and stored idempotently: a process that dies in
between makes the event come again, and storing again changes nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from types import UnionType
from typing import assert_never

from zerver.lib import signals
from zerver.lib.database import perform
from zerver.lib.errors import EventNotStorable
from zerver.lib.event import identified, next_attempt
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import file_failed
from zerver.lib.shard_names import family_of
from zerver.lib.transport.base import Delivery
from zerver.models import InboxEntry
from zerver.worker import handed_back, suspects
from zerver.worker.database_guard import STORE_ERRORS
from zerver.worker.outcomes import Dead, Discard, Done, Outcome, Release, Retry


class Settler:
    """Settles the deliveries of one queue in one worker process."""

    def __init__(self, queue: str, alias: str, worker: str) -> None:
        self._queue = queue
        self._alias = alias
        self._table = EventTable(alias)
        #: ``host:pid``, kept with failed events.
        self._worker = worker

    def settle(self, settled: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Settle a handful at once. May be repeated as a whole after an error.

        Raises: TransportUnavailable, or a database error, when the outcome could not be stored; nothing is lost, and
        what was not acknowledged is still in hand.
        """
        done: list[Delivery] = []
        released: list[Delivery] = []
        for delivery, outcome in settled:
            match outcome:
                case Done() | Discard():
                    done.append(delivery)
                case Retry():
                    after_seconds = max(0.0, outcome.after_seconds)
                    if not delivery.lane.retry(delivery, after_seconds):
                        self._store_retry(delivery, outcome)
                        done.append(delivery)
                case Dead():
                    self._file(delivery, outcome.error, outcome.traceback)
                    done.append(delivery)
                case Release():
                    released.append(delivery)
                case _:
                    assert_never(outcome)
        # A suspect that did not kill is innocent, even if its acknowledgement is lost with a process that others kill.
        self._acquit(settled, Done | Discard | Retry)
        _by_lane(done, "done")
        self._absolve(released)
        _by_lane(released, "release")
        for lane in {delivery.lane for delivery, outcome in settled if _is_weighty(delivery, outcome)}:
            lane.flush()
        # Last: should the next event kill this process now, the one that was given up for it must not run anew.
        self._acquit(settled, Dead)

    def _absolve(self, released: Sequence[Delivery]) -> None:
        """Before they go, or somebody may have them as suspects already. A suspect stays one."""
        innocent = [each for each in released if not (each.redelivered or each.lane.tells_release_from_loss)]
        if innocent:
            # While the database is away they go back as if somebody had died of them.
            with suppress(*STORE_ERRORS):
                ids = [each.event.message_id for each in innocent]
                handed_back.note(self._queue, ids, self._alias)

    def _acquit(self, settled: Sequence[tuple[Delivery, Outcome]], kind: type | UnionType) -> None:
        ids = [
            delivery.event.message_id
            for delivery, outcome in settled
            if delivery.redelivered and isinstance(outcome, kind)
        ]
        suspects.clear(self._queue, ids, self._alias)

    def _store_retry(self, delivery: Delivery, outcome: Retry) -> None:
        try:
            self._table.store([next_attempt(delivery.event)], delay_seconds=max(0.0, outcome.after_seconds))
        except EventNotStorable as error:
            # An id of somebody else's making, say, that this database cannot hold.
            self._file(delivery, f"{outcome.error}; and it cannot be kept for a retry: {error}", "")

    def _file(self, delivery: Delivery, error: str, traceback: str) -> None:
        event = delivery.event
        inbox = InboxEntry.objects.using(self._alias).filter(
            queue=family_of(event.queue), message_id=event.message_id
        )
        if perform(self._alias, lambda _: inbox.exists()):
            # A transactional event that was committed and failed after that, in an on_commit hook or by a connection
            # lost during COMMIT: it is done, and a replay would do it twice.
            return
        file_failed(delivery.event, error=error, traceback=traceback, worker=self._worker, alias=self._alias)


def _is_weighty(delivery: Delivery, outcome: Outcome) -> bool:
    """Not left to the ack window: coming again, it would be there twice, or be in doubt once more."""
    return isinstance(outcome, Retry | Dead) or (delivery.redelivered and not isinstance(outcome, Release))


def _by_lane(deliveries: Sequence[Delivery], verb: str) -> None:
    for lane in {delivery.lane for delivery in deliveries}:
        getattr(lane, verb)([delivery for delivery in deliveries if delivery.lane is lane])


def tell(delivery: Delivery, outcome: Outcome) -> None:
    """Send the signal for everything but Done, which happens too often to tell."""
    event = delivery.event
    match outcome:
        case Done() | Release():
            return
        case Discard():
            problem = outcome.reason
        case Retry() | Dead():
            problem = outcome.error
            event = identified(event)  # it is looked for under the id that it is kept under
        case _:
            assert_never(outcome)
    signals.attempt_failed.send_robust(
        sender=None,
        queue=event.queue,
        message_id=event.message_id,
        attempt=event.attempt,
        outcome=type(outcome).__name__,
        problem=problem,
    )

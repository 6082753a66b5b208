"""Rows born in a transaction, and their way to the fast lane once it has committed.

Rows that are due now are born leased to the publishing process. One ``on_commit`` per transaction sends them all over
the fast lane under one deadline and deletes them. Whatever happens in between, the lease ends and workers take them.
"""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.db import close_old_connections, connections, transaction

from zerver.lib import clock, signals
from zerver.lib.conf import get_settings
from zerver.lib.errors import TransportError
from zerver.lib.event import Event
from zerver.lib.event_table import Key, key
from zerver.lib.transport import current
from zerver.lib.transport.base import Fate, Published

#: How long a row belongs to the process that published it. Longer than any publish deadline should be.
LEASE_SECONDS = 30.0

#: The lease of a transaction that took longer than this may end while its events are on their way.
_YOUNG_SECONDS = LEASE_SECONDS / 3

_ATTRIBUTE = "_zerver_outbox"


@dataclass(slots=True, eq=False)
class _Outbox:
    """The events of one open transaction on one connection."""

    alias: str
    #: Monotonic; from before the first row was stored, so that its lease ends later.
    born_at: float
    events: list[Event] = field(default_factory=list)

    def flush(self) -> None:
        """Runs once after the commit; must not raise, for the caller's commit has happened."""
        events, self.events = self.events, []  # the connection keeps this box; it need not keep bodies
        try:
            _send(events, self.born_at)
        except TransportError as error:
            # The rows are committed; the workers take them when the lease ends.
            _tell_missed([key(event) for event in events], str(error))


def store(events: Sequence[Event], alias: str) -> None:
    """Store rows in the open transaction and have them sent after its commit. Raises: TransportError."""
    fast = current.fast_lane()
    if fast is None or fast.is_away:
        # Nobody to send to: born free, workers take them as soon as the transaction commits.
        current.table().store(events)
        return
    born_at = clock.monotonic()
    current.table().store(events, lease_seconds=_lease_seconds())
    _of_transaction(alias, born_at).events.extend(events)


def store_in_doubt(doubtful: Sequence[tuple[Event, "Future[bool] | None"]], timeout_seconds: float) -> None:
    """Rows for events that the broker may yet confirm, all or none; a late confirm deletes its row.

    One that can be confirmed no more, since its connection is lost, is free for the workers from then on.
    Raises: TransportError.
    """
    events = [event for event, _ in doubtful]
    current.table().store(events, lease_seconds=_lease_seconds(), timeout_seconds=timeout_seconds)
    _settle_when_answered(doubtful)


def _lease_seconds() -> float:
    return max(LEASE_SECONDS, get_settings().publish_timeout_seconds * 2)


def _of_transaction(alias: str, born_at: float) -> _Outbox:
    """The outbox whose flush this transaction will run, registered if it is not.

    A savepoint that is rolled back takes the callbacks registered in it along, so the list is looked through; it
    holds one entry of ours at most.
    """
    connection: Any = connections[alias]
    box: _Outbox | None = getattr(connection, _ATTRIBUTE, None)
    if box is not None and any(box.flush == callback[1] for callback in connection.run_on_commit):
        return box
    box = _Outbox(alias, born_at)
    setattr(connection, _ATTRIBUTE, box)
    transaction.on_commit(box.flush, using=alias)
    return box


def _send(events: list[Event], born_at: float) -> None:
    fast = current.fast_lane()
    committed = _still_ours(events, born_at)
    if fast is None or not committed:
        return
    answers = fast.publish(committed, get_settings().publish_timeout_seconds)
    stored = [event for event, answer in zip(committed, answers, strict=True) if answer.fate is Fate.STORED]
    current.table().forget([key(event) for event in stored])
    missed = [
        (event, answer)
        for event, answer in zip(committed, answers, strict=True)
        if answer.fate is not Fate.STORED
    ]
    if missed:
        _leave_to_workers(missed)


def _still_ours(events: Sequence[Event], born_at: float) -> list[Event]:
    """Those whose rows were committed, and that no worker takes while they are being sent.

    A savepoint may have been rolled back after its events were collected: those have no row. After a long transaction
    the rows were free as soon as it committed, so they are leased anew; usually a look at them will do, which costs
    the database no write.
    """
    table = current.table()
    keys = [key(event) for event in events]
    is_young = clock.monotonic() - born_at < _YOUNG_SECONDS
    ours = table.present(keys) if is_young else table.hold(keys, _lease_seconds())
    return [event for event in events if key(event) in ours]


def _leave_to_workers(missed: Sequence[tuple[Event, Published]]) -> None:
    """What the broker refused is free at once; what is in doubt keeps its lease until the answer or its end."""
    refused = [event for event, answer in missed if answer.fate is Fate.REFUSED]
    current.table().free([key(event) for event in refused])
    _settle_when_answered([(event, answer.late) for event, answer in missed])
    problem = "; ".join(sorted({answer.problem for _, answer in missed}))
    _tell_missed([key(event) for event, _ in missed], problem)


def _settle_when_answered(doubtful: Sequence[tuple[Event, "Future[bool] | None"]]) -> None:
    for event, late in doubtful:
        if late is not None:
            # Called at once if the answer came while the row was being written.
            late.add_done_callback(partial(_after_late_answer, key(event)))


def _after_late_answer(of_row: Key, answer: "Future[bool]") -> None:
    """Off the thread that brings the answer: that one owns the broker's connection and must not wait for a database."""
    if not answer.cancelled() and answer.exception() is None:
        _janitor().settle(of_row, is_stored=answer.result())


class _Janitor:
    """One thread a process that settles rows whose answer came late, as many at once as have come by then."""

    def __init__(self) -> None:
        #: The row, and whether the broker has its event.
        self._answered: deque[tuple[Key, bool]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="zerver-outbox")

    def settle(self, of_row: Key, *, is_stored: bool) -> None:
        self._answered.append((of_row, is_stored))
        # One call for each: all but the first after a burst find nothing left to do.
        self._thread.submit(self._settle_answered)

    def _settle_answered(self) -> None:
        answered = [self._answered.popleft() for _ in range(len(self._answered))]
        if not answered:
            return
        try:
            current.table().forget([of_row for of_row, is_stored in answered if is_stored])
            # Nobody will say more of these. Should the broker have them all the same, they come twice, now or later.
            current.table().free([of_row for of_row, is_stored in answered if not is_stored])
        except TransportError as error:
            # The rows stay until their leases end; what was confirmed may come twice, as promised.
            keys = [of_row for of_row, _ in answered]
            _tell_missed(keys, f"answered late, but their rows could not be settled: {error}")
        finally:
            close_old_connections()


#: By process id: threads do not survive a fork.
_janitors: dict[int, _Janitor] = {}


def _janitor() -> _Janitor:
    janitor = _janitors.get(os.getpid())
    # Without a lock, which a fork could inherit: a second one that lost the race works as well, on its own rows.
    return janitor if janitor is not None else _janitors.setdefault(os.getpid(), _Janitor())


def _tell_missed(keys: Sequence[Key], problem: str) -> None:
    queue, _, _ = keys[0]
    message_ids = [message_id for _, message_id, _ in keys]
    signals.fast_lane_missed.send_robust(sender=None, queue=queue, message_ids=message_ids, problem=problem)

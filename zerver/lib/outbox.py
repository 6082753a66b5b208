"""Rows born in a transaction, and their way to the fast lane once it has committed.

Rows that are due now are born leased to the publishing process. One ``on_commit`` per transaction sends them all over
the fast lane under one deadline and deletes them. Whatever happens in between, the lease ends and workers take them.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.db import close_old_connections, connections, transaction

from zerver.lib import signals
from zerver.lib.conf import get_settings
from zerver.lib.errors import TransportError
from zerver.lib.event import Event
from zerver.lib.transport import current
from zerver.lib.transport.base import Fate, Published

#: How long a row belongs to the process that published it. Longer than any publish deadline should be.
LEASE_SECONDS = 30.0

_ATTRIBUTE = "_zerver_outbox"

#: One thread a process for rows whose confirm came late, by process id: threads do not survive a fork.
_janitors: dict[int, ThreadPoolExecutor] = {}


@dataclass(slots=True, eq=False)
class _Outbox:
    """The events of one open transaction on one connection."""

    alias: str
    events: list[Event] = field(default_factory=list)

    def flush(self) -> None:
        """Runs once after the commit; must not raise, for the caller's commit has happened."""
        events, self.events = self.events, []  # the connection keeps this box; it need not keep bodies
        try:
            _send(events, self.alias)
        except TransportError as error:
            # The rows are committed; the workers take them when the lease ends.
            _tell_missed(events, str(error))


def store(events: Sequence[Event], alias: str) -> None:
    """Store rows in the open transaction and have them sent after its commit. Raises: TransportError."""
    fast = current.fast_lane()
    if fast is None or fast.is_away:
        # Nobody to send to: born free, workers take them as soon as the transaction commits.
        current.table().store(events)
        return
    current.table().store(events, lease_seconds=_lease_seconds())
    _of_transaction(alias).events.extend(events)


def store_in_doubt(events: Sequence[Event], late: "Future[bool] | None") -> None:
    """A row for events that the broker may yet confirm; a late confirm deletes it. Raises: TransportError."""
    current.table().store(events, lease_seconds=_lease_seconds())
    if late is not None:
        # Called at once if the answer came while the row was being written.
        late.add_done_callback(partial(_after_late_answer, events))


def _lease_seconds() -> float:
    return max(LEASE_SECONDS, get_settings().publish_timeout_seconds * 2)


def _of_transaction(alias: str) -> _Outbox:
    """The outbox whose flush this transaction will run, registered if it is not.

    A savepoint that is rolled back takes the callbacks registered in it along, so the list is looked through; it
    holds one entry of ours at most.
    """
    connection: Any = connections[alias]
    box: _Outbox | None = getattr(connection, _ATTRIBUTE, None)
    if box is not None and any(box.flush == callback[1] for callback in connection.run_on_commit):
        return box
    box = _Outbox(alias)
    setattr(connection, _ATTRIBUTE, box)
    transaction.on_commit(box.flush, using=alias)
    return box


def _send(events: list[Event], alias: str) -> None:
    table = current.table()
    # A savepoint may have been rolled back after its events were collected: only rows that are there were committed.
    present = table.present([(event.message_id, event.attempt) for event in events])
    committed = [event for event in events if (event.message_id, event.attempt) in present]
    fast = current.fast_lane()
    if fast is None or not committed:
        return
    answers = fast.publish(committed, get_settings().publish_timeout_seconds)
    _forget([event for event, answer in zip(committed, answers, strict=True) if answer.fate is Fate.STORED])
    missed = [
        (event, answer)
        for event, answer in zip(committed, answers, strict=True)
        if answer.fate is not Fate.STORED
    ]
    if missed:
        _leave_to_workers(missed)


def _leave_to_workers(missed: Sequence[tuple[Event, Published]]) -> None:
    """What the broker refused is free at once; what is in doubt keeps its lease until the answer or its end."""
    refused = [event for event, answer in missed if answer.fate is Fate.REFUSED]
    current.table().free([(event.message_id, event.attempt) for event in refused])
    for event, answer in missed:
        if answer.late is not None:
            answer.late.add_done_callback(partial(_after_late_answer, [event]))
    _tell_missed([event for event, _ in missed], "; ".join(sorted({answer.problem for _, answer in missed})))


def _after_late_answer(events: Sequence[Event], answer: "Future[bool]") -> None:
    """Off the thread that brings the answer: that one owns the broker's connection and must not wait for a database."""
    if not answer.cancelled() and answer.exception() is None and answer.result():
        _janitor().submit(_forget_quietly, events)


def _janitor() -> ThreadPoolExecutor:
    janitor = _janitors.get(os.getpid())
    if janitor is None:
        janitor = _janitors[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="zerver-outbox")
    return janitor


def _forget(events: Sequence[Event]) -> None:
    current.table().forget([(event.message_id, event.attempt) for event in events])


def _forget_quietly(events: Sequence[Event]) -> None:
    try:
        _forget(events)
    except TransportError as error:
        # The row stays and its event may come twice, under the same message id: that is the promise.
        _tell_missed(events, f"confirmed late, but its row could not be deleted: {error}")
    finally:
        close_old_connections()


def _tell_missed(events: Sequence[Event], problem: str) -> None:
    signals.fast_lane_missed.send_robust(
        sender=None,
        queue=events[0].queue,
        message_ids=[event.message_id for event in events],
        problem=problem,
    )

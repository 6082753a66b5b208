"""The demonstration: real webhooks in at the door, over HTTP, through every queue, into rows."""

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from django.db import connections

from zerver.lib.counted import counted
from zerver.management.dev.address import Address
from zerver.management.dev.console import Console
from zerver.management.dev.tally import Ledger, QueueTally, Rows
from zerver.management.dev.webhooks import Answer, Sender
from zerver.management.display import progress
from zerver.monitoring.snapshot import QueueSnapshot, take_snapshot

WEBHOOK_QUEUE = "incoming_webhooks"
ACTIVITY_QUEUE = "user_activity"

_SERVER_SECONDS = 60.0
#: Longer than any wait before a retry by the default policy.
_STALLED_SECONDS = 120.0
_POLL_SECONDS = 0.05
#: Workers elsewhere, on the same queues, tell their counts only now and then.
_COUNTS_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What a run came to, all of it read from answers and rows."""

    #: By queue.
    published: Mapping[str, int]
    #: By queue; those where nothing happened are left out.
    queues: Mapping[str, QueueTally]
    rows: Rows
    #: From the first request to the last effect.
    seconds: float
    #: Why this is no success, in one line; empty when it is one.
    problem: str

    @property
    def events(self) -> int:
        """Consumed, over all queues."""
        return sum(tally.consumed for tally in self.queues.values())


class Demo:
    """Posts and watches, while somebody else keeps the processes running."""

    def __init__(self, sender: Sender, ledger: Ledger, console: Console) -> None:
        self._sender = sender
        self._ledger = ledger
        self._console = console
        self._answers: Sequence[Answer] = ()
        self._started_at = 0.0
        self._seconds = 0.0
        self._problem = "it ended before anything was posted"

    def run(self, address: Address, stopping: threading.Event, on_end: Callable[[], None]) -> None:
        """On a thread of its own, until all is done or ``stopping`` is set; then calls ``on_end``."""
        try:
            self._problem = (
                self._wait_for_server(address, stopping)
                or self._post(address, stopping)
                or self._wait_for_queues(stopping)
            )
        except Exception as error:  # told with the result, by the thread that waits for it
            self._problem = f"{type(error).__name__}: {error}"
        finally:
            connections.close_all()
            on_end()

    def result(self) -> DemoResult:
        """Ask once every process has ended, and so has said its last counts."""
        rows = self._ledger.rows()
        published = self._published(rows)
        tallies = self._ledger.queues()
        deadline = time.monotonic() + _COUNTS_SECONDS
        while not self._problem and not _has_ended(published, tallies) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            tallies = self._ledger.queues()
        happened = {
            name: tally for name, tally in sorted(tallies.items()) if tally.ended or name in published
        }
        return DemoResult(
            published=published,
            queues={name: happened.get(name, QueueTally()) for name in (*published, *happened)},
            rows=rows,
            seconds=self._seconds,
            problem=self._problem or _shortfall(published, tallies),
        )

    # the steps: each returns what went wrong, in one line, or ""

    def _wait_for_server(self, address: Address, stopping: threading.Event) -> str:
        deadline = time.monotonic() + _SERVER_SECONDS
        while time.monotonic() < deadline:
            if _is_listening(address):
                return ""
            if stopping.wait(_POLL_SECONDS):
                return "it was stopped before anything was posted"
        return f"the web server on {address} was not there within {_SERVER_SECONDS:g} s"

    def _post(self, address: Address, stopping: threading.Event) -> str:
        self._started_at = time.monotonic()
        with progress("posting", self._sender.count, self._console.note) as bar:
            self._answers = self._sender.post_all(address, bar.advance, stopping)
        seconds = time.monotonic() - self._started_at
        webhooks = counted(self._sender.count, "webhook")
        self._console.note(f"{self._accepted} of {webhooks} accepted in {seconds:.1f} s")
        refused = [answer for answer in self._answers if not answer.is_accepted]
        if refused:
            return f"{len(refused)} of {webhooks} not accepted, the first: {refused[0].problem}"
        return ""

    def _wait_for_queues(self, stopping: threading.Event) -> str:
        """Until everything posted has had its effect, or has failed, and nothing waits in either lane."""
        last: object = None
        moved_at = time.monotonic()
        shown = 0
        with progress("consuming", self._accepted, self._console.note) as bar:
            while not stopping.wait(_POLL_SECONDS):
                rows, tallies = self._ledger.rows(), self._ledger.queues()
                self._seconds = time.monotonic() - self._started_at
                bar.advance(rows.webhooks - shown)
                shown = rows.webhooks
                waiting = self._waiting() if self._is_done(rows, tallies) else None
                if waiting == "":
                    self._console.note("every queue is empty")
                    return ""
                looks = (rows, [(name, tally.ended, tally.retried) for name, tally in tallies.items()])
                if looks != last:
                    last, moved_at = looks, time.monotonic()
                elif time.monotonic() - moved_at > _STALLED_SECONDS:
                    return (
                        f"nothing has moved for {_STALLED_SECONDS:g} s; waiting: {waiting or self._waiting()}"
                    )
        return "it was stopped before the queues were empty"

    def _is_done(self, rows: Rows, tallies: Mapping[str, QueueTally]) -> bool:
        """By effects, which are there at once; by counters, which come later, where some events failed."""
        if rows.webhooks >= self._accepted and rows.has_all_activities:
            return True
        return _has_ended(self._published(rows), tallies)

    def _waiting(self) -> str:
        """What waits or is in hand, as far as the lanes can tell. Shape: ``3 in user_activity``, or empty."""
        counts = [(queue.name, _held(queue)) for queue in take_snapshot().queues]
        return ", ".join(f"{count} in {name}" for name, count in counts if count)

    def _published(self, rows: Rows) -> dict[str, int]:
        published = {WEBHOOK_QUEUE: self._accepted}
        if rows.activities is not None:
            published[ACTIVITY_QUEUE] = rows.with_sender
        return published

    @property
    def _accepted(self) -> int:
        return sum(answer.is_accepted for answer in self._answers)


def _held(queue: QueueSnapshot) -> int:
    return queue.known("ready") + queue.known("unacked") + queue.known("later")


def _has_ended(published: Mapping[str, int], tallies: Mapping[str, QueueTally]) -> bool:
    """By the workers' own counts."""
    return all(tallies.get(name, QueueTally()).ended >= count for name, count in published.items())


def _shortfall(published: Mapping[str, int], tallies: Mapping[str, QueueTally]) -> str:
    """What keeps a run from being a success, in one line; empty when nothing does."""
    for name, tally in sorted(tallies.items()):
        if tally.failed:
            return f"{counted(tally.failed, 'event')} of {name} failed: ./manage.py queue_failed list --queue {name}"
    for name, count in published.items():
        consumed = tallies.get(name, QueueTally()).consumed
        if consumed < count:
            return f"{consumed} of {counted(count, 'event')} of {name} consumed"
    return ""


def _is_listening(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=5).close()
    except OSError:
        return False
    return True

"""What a worker process does in the database beside its events: say how it is, hear what it is told, look after the
dead, forget what is old.
"""

import random
import threading
from collections.abc import Callable, Sequence

from django.db import Error, connections

from zerver.lib import clock, signals, vault
from zerver.lib.conf import QueueSettings
from zerver.lib.database import delete_by_chunks
from zerver.lib.database_trouble import is_unmigrated, unavailable
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import prune as prune_failed
from zerver.lib.resealing import Kind, unreadable_rows
from zerver.models import HandedBack, Suspect, WorkerProcess
from zerver.worker import inbox
from zerver.worker.chores import Chores
from zerver.worker.database_guard import STORE_ERRORS
from zerver.worker.orders import read_orders
from zerver.worker.process import ProcessRow, rss_bytes, sweep_dead

#: How often a worker process says how it is.
BEAT_SECONDS = 5.0
#: How soon it looks again whether it is ready, which others wait to read.
_SOON_SECONDS = 0.5
#: Two beats overdue.
LATE_MS = int(3 * BEAT_SECONDS * 1000)
_SWEEP_SECONDS = 15.0
_PRUNE_SECONDS = 3600.0
#: How often to look for events that only others can read.
_LOOK_SECONDS = 60.0
#: How long the last word may take.
_LEAVE_SECONDS = 10.0
#: A chore.
_HEARING = "asking whether its queue is paused"


class Housekeeper:
    """One thread a process, with a database connection of its own.

    A database that is away makes it miss a beat; nothing makes it end before the process does.
    """

    def __init__(
        self,
        rows: Sequence[ProcessRow],
        settings: QueueSettings,
        on_stop_asked: Callable[[str], None],
    ) -> None:
        """``on_stop_asked`` is called with who has told this process to stop, at every round from then on."""
        self._rows = list(rows)
        self._settings = settings
        self._on_stop_asked = on_stop_asked
        self._stop = threading.Event()
        #: A round is due before its time.
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zerver-housekeeper", daemon=True)
        #: Its rows have been there: whoever pauses a queue finds them, and waits for this process.
        self._is_known = False
        self._sweep_at = 0.0
        self._look_at = 0.0
        #: What was sealed with keys that we do not have, when last looked.
        self._unreadable: set[tuple[str, str]] = set()
        self._chores = Chores(self._rows[0].runner.queue.name, settings.database)
        # Not at once in every process after a deploy.
        self._prune_at = clock.monotonic() + _PRUNE_SECONDS * random.random()  # noqa: S311 (spreads load)
        for row in self._rows:
            # Somebody waits to hear that it takes nothing any more, or that it takes events again; or for what it had.
            row.runner.gate.on_rest = row.runner.on_started = row.runner.on_surplus = self._wake.set

    def start(self) -> None:
        """The first round is made here, before the first event: of a process that dies at once, the row must be there,
        or nobody would know whose leases to end.
        """
        self._round()
        self._thread.start()

    @property
    def has_died(self) -> bool:
        """It makes no rounds any more, and nobody has told it to stop. Waiting for the database it lives."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stop.is_set()

    def leave(self, within_seconds: float = _LEAVE_SECONDS) -> None:
        """Say the last word, stopped, with the final counts; or give that up, where the database takes longer."""
        self._stop.set()
        self._wake.set()
        self._thread.join(within_seconds)

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait(self._rest_seconds)
                self._wake.clear()
                if self._stop.is_set():
                    break
                self._round()
            self._chores.do("the last heartbeat", self._say_goodbye)
        finally:
            connections.close_all()

    @property
    def _rest_seconds(self) -> float:
        """Until the next round; a short one while all that is missing is the first word of the lanes' other side."""
        starting = [row.runner for row in self._rows if row.state is WorkerProcess.State.STARTING]
        is_soon = any(runner.has_started and runner.gate.is_told for runner in starting)
        return min(BEAT_SECONDS, _SOON_SECONDS) if is_soon else BEAT_SECONDS

    def _round(self) -> None:
        self._chores.do("handing back what is too much", self._return_surplus)
        self._chores.do("measuring memory", self._recycle_if_large)
        self._chores.do(_HEARING, self._hear_orders)
        self._chores.do("the heartbeat", self._write)
        now = clock.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            self._chores.do("looking for dead processes", lambda: sweep_dead(self._settings.database))
            self._chores.do("looking after features", self._look_after_features)
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._chores.do("looking for sealed events", self._tell_unreadable)
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_SECONDS
            self._chores.do("forgetting what is old", self._prune)

    def _look_after_features(self) -> None:
        queues = [row.runner.queue.name for row in self._rows if not row.runner.stopping.is_set()]
        signals.ask(signals.housekeeping, queues=queues)

    def _return_surplus(self) -> None:
        for row in self._rows:
            if row.runner.has_started:
                row.runner.return_surplus()

    def _hear_orders(self) -> None:
        """What it was last told holds for as long as the database is away."""
        runners = [row.runner for row in self._rows]
        try:
            self._introduce()
            orders = read_orders(
                {runner.queue.name for runner in runners},
                [row.id for row in self._rows],
                self._settings.database,
            )
        except (*STORE_ERRORS, Error) as error:
            if not all(runner.gate.is_told for runner in runners):
                problem = unavailable(self._settings.database, error) if isinstance(error, Error) else error
                self._chores.tell(_HEARING, f"{problem}; it takes nothing before it knows")
            raise
        for runner in runners:
            # A table that is missing all of a sudden ends no pause.
            if orders is not None or not runner.gate.is_told:
                runner.obey(None if orders is None else orders.pauses.get(runner.queue.name))
        if orders is not None and orders.stop_asked_by:
            self._on_stop_asked(orders.stop_asked_by)

    def _introduce(self) -> None:
        """Before it asks: a pause that commits in between finds the rows, and waits for what this process says of it.

        Before this release's migrations have been run there are no such rows, and no pauses either.
        """
        if self._is_known:
            return
        try:
            self._write()
        except Error as error:
            if not is_unmigrated(error):
                raise
        self._is_known = True

    def _write(self, *, is_last: bool = False) -> None:
        for row in self._rows:
            row.write(is_last=is_last)

    def _say_goodbye(self) -> None:
        """What it holds still, as after an error of ours, is freed first: nobody sweeps after one that has stopped."""
        EventTable(self._settings.database).release_owned([row.id for row in self._rows])
        self._write(is_last=True)

    def _prune(self) -> None:
        alias = self._settings.database
        older_than_ms = EventTable(alias).days_ago_ms(self._settings.retention_days)
        prune_failed(older_than_ms=older_than_ms, alias=alias)
        inbox.prune(older_than_ms, alias)
        # Of events that were purged, or settled by a process that could not say so.
        delete_by_chunks(Suspect.objects.filter(last_started_at_ms__lt=older_than_ms), alias)
        delete_by_chunks(HandedBack.objects.filter(at_ms__lt=older_than_ms), alias)
        signals.ask(signals.pruning, before_ms=older_than_ms)

    def _recycle_if_large(self) -> None:
        size_mb = rss_bytes() / (1 << 20)
        for row in self._rows:
            limit = row.runner.queue.max_rss_mb
            if limit is not None and size_mb > limit and not row.runner.stopping.is_set():
                signals.worker_changed.send_robust(
                    sender=None,
                    queue=row.runner.queue.name,
                    state="recycling",
                    problem=f"{size_mb:.0f} MB in use, over max_rss_mb={limit}",
                )
                row.runner.stop()

    def _tell_unreadable(self) -> None:
        """Once of each key: nobody here takes these events, and nothing else of this process would say so."""
        queues = [row.runner.queue.name for row in self._rows]
        every = unreadable_rows(self._settings.database, queues)
        found = [each for each in every if each.kind in (Kind.WAITING, Kind.TASK)]
        for each in found:
            if (each.queue, each.key) not in self._unreadable:
                signals.worker_changed.send_robust(
                    sender=None,
                    queue=each.queue,
                    state="leaves events that it cannot read",
                    problem=f"{each}, {vault.current().lack}; they wait for who has it",
                )
        self._unreadable = {(each.queue, each.key) for each in found}

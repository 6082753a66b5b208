"""What the core keeps in the project's own database. No logic beyond QuerySet verbs; imports nothing of zerver.

Times are integers in milliseconds since the epoch, by the database's clock: the same arithmetic on every database,
and one index serves both "due" and "lease has ended".
"""

from typing import ClassVar, Self

from django.db import models


def _sealed_with() -> "models.CharField[str | None, str | None]":
    """Name of the key that what was published is sealed with, see ``lib.vault``; None: it is as it was published.

    Null, and no default of any kind: so a process of an earlier version, which leaves the column out, still stores
    rows, and says of them what is true.
    """
    return models.CharField(max_length=16, null=True, blank=True)


def _sealed_index(name: str) -> models.Index:
    """Finds each key, and each queue that has rows of it, by one look; without keys it is empty, and costs nothing."""
    return models.Index(
        fields=["sealed_with", "queue"], name=name, condition=models.Q(sealed_with__isnull=False)
    )


class WaitingEvent(models.Model):
    """A row of the event table: an event that waits for its transaction, its due time, or a broker."""

    message_id = models.CharField(max_length=255)
    queue = models.CharField(max_length=63)
    #: The encoded event, unchanged since it was published; or sealed, see ``sealed_with``.
    body = models.BinaryField()
    #: JSON object of strings: what travels beside the body (``traceparent``, ``x-version``, …).
    headers = models.TextField(default="{}")
    attempt = models.PositiveIntegerField(default=1)
    published_at_ms = models.BigIntegerField()
    #: When the event should run.
    due_at_ms = models.BigIntegerField()
    #: From when it may be claimed: the due time, or the end of the present lease.
    available_at_ms = models.BigIntegerField()
    #: Rises with every claim. Whoever settles names the lease it holds, so a stale holder changes nothing.
    lease = models.BigIntegerField(default=0)
    #: The worker process that claimed it last and has not handed it back; empty when nobody did.
    lease_owner = models.CharField(max_length=36, default="", blank=True)
    #: Claimed while another process had it unsettled: that process may have died of it.
    redelivered = models.BooleanField(default=False)
    sealed_with = _sealed_with()
    #: On a queue that is ordered, see ``lib.ordered_rows``: the line that it stands in. Null on any other; and for rows
    #: of processes of an earlier version, or of when the queue was not ordered, until a worker gives them theirs.
    line = models.BigIntegerField(null=True, blank=True)

    class Meta:
        db_table = "zerver_event"
        constraints: ClassVar = [
            # The rows of each line in their order, that which was begun first. As a constraint: two cannot be begun.
            models.UniqueConstraint(
                models.F("queue"),
                models.F("line"),
                models.Case(
                    models.When(lease_owner="", then=models.F("id")),
                    default=models.Value(0),
                    output_field=models.BigIntegerField(),
                ),
                condition=models.Q(line__isnull=False),
                name="zerver_event_line",
            ),
            # One message may stand on several queues: a fanout exchange puts it there. The id comes first, so that an
            # event can be looked up without its queue.
            models.UniqueConstraint(fields=["message_id", "queue", "attempt"], name="zerver_event_once"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["queue", "available_at_ms", "id"], name="zerver_event_due"),
            models.Index(
                fields=["lease_owner"], name="zerver_event_owner", condition=~models.Q(lease_owner="")
            ),
            _sealed_index("zerver_event_sealed"),
        ]

    def __str__(self) -> str:
        return f"{self.queue} {self.message_id} attempt {self.attempt}"


class FailedEventQuerySet(models.QuerySet["FailedEvent"]):
    def open(self) -> Self:
        """Those that nobody has replayed or discarded yet."""
        return self.filter(state=FailedEvent.State.FAILED)


class FailedEvent(models.Model):
    """A dead event, kept with its error until somebody replays it, discards it, or its retention ends."""

    class State(models.TextChoices):
        FAILED = "failed"
        REPLAYED = "replayed"
        DISCARDED = "discarded"

    message_id = models.CharField(max_length=255)
    queue = models.CharField(max_length=63)
    #: Read it, ``error`` and ``traceback`` by ``lib.failed_events``: they may be sealed, see ``sealed_with``.
    body = models.BinaryField()
    headers = models.TextField(default="{}")
    attempt = models.PositiveIntegerField()
    published_at_ms = models.BigIntegerField()
    failed_at_ms = models.BigIntegerField()
    #: One line: the exception's class and message, or the reason given with ``Dead``.
    error = models.TextField()
    traceback = models.TextField(default="", blank=True)
    #: ``host:pid`` of the worker process that gave it up.
    worker = models.CharField(max_length=300, default="", blank=True)
    state = models.CharField(max_length=9, choices=State.choices, default=State.FAILED)
    resolved_at_ms = models.BigIntegerField(null=True, blank=True)
    #: Who replayed or discarded it.
    resolved_by = models.CharField(max_length=150, default="", blank=True)
    #: Message id of the event that the replay published.
    replay_message_id = models.CharField(max_length=255, default="", blank=True)
    sealed_with = _sealed_with()

    objects = FailedEventQuerySet.as_manager()

    class Meta:
        db_table = "zerver_failed_event"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["message_id", "queue", "attempt"], name="zerver_failed_event_once"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["queue", "state", "failed_at_ms"], name="zerver_failed_event_queue"),
            models.Index(fields=["failed_at_ms"], name="zerver_failed_event_age"),
            _sealed_index("zerver_failed_event_sealed"),
        ]

    def __str__(self) -> str:
        return f"{self.queue} {self.message_id} attempt {self.attempt}"


class InboxEntry(models.Model):
    """An event that a ``transactional`` worker has done; written in the transaction of its effects."""

    queue = models.CharField(max_length=63)
    message_id = models.CharField(max_length=255)
    done_at_ms = models.BigIntegerField()

    class Meta:
        db_table = "zerver_inbox"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["queue", "message_id"], name="zerver_inbox_once"),
        ]
        indexes: ClassVar = [models.Index(fields=["done_at_ms"], name="zerver_inbox_age")]

    def __str__(self) -> str:
        return f"{self.queue} {self.message_id}"


class Suspect(models.Model):
    """A redelivered event and how many processes may have died of it; gone once it has been settled."""

    queue = models.CharField(max_length=63)
    message_id = models.CharField(max_length=255)
    crashes = models.PositiveIntegerField(default=0)
    last_started_at_ms = models.BigIntegerField()
    #: ``host:pid`` of the worker process that tried it last.
    last_worker = models.CharField(max_length=300, default="", blank=True)

    class Meta:
        db_table = "zerver_suspect"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["queue", "message_id"], name="zerver_suspect_once"),
        ]

    def __str__(self) -> str:
        return f"{self.queue} {self.message_id}: {self.crashes} crashes"


class HandedBack(models.Model):
    """An event that a worker process gave back to the fast lane unbegun; gone once somebody has taken it again.

    See ``worker.handed_back``.
    """

    queue = models.CharField(max_length=63)
    message_id = models.CharField(max_length=255)
    at_ms = models.BigIntegerField()

    class Meta:
        db_table = "zerver_handed_back"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["queue", "message_id"], name="zerver_handed_back_once"),
        ]

    def __str__(self) -> str:
        return f"{self.queue} {self.message_id}"


class WorkerProcess(models.Model):
    """One worker process at one queue, as it last said of itself, so that any host can see all."""

    class State(models.TextChoices):
        #: Its ``setup`` has not gone well yet.
        STARTING = "starting"
        RUNNING = "running"
        #: It cannot start, as ``breaker`` says, and tries again.
        FAILING = "failing"
        #: Its queue is paused, and it has nothing of it in hand.
        PAUSED = "paused"
        DRAINING = "draining"
        STOPPED = "stopped"
        #: It ended without a word, and others have found it so.
        DEAD = "dead"

    #: What becomes of it no more.
    ENDED: ClassVar = (State.STOPPED, State.DEAD)

    id = models.CharField(primary_key=True, max_length=36)
    queue = models.CharField(max_length=63)
    worker_num = models.PositiveIntegerField(null=True, blank=True)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    #: Distinguishes this process from a later one of the same pid; see ``lib.process_mark``.
    start_mark = models.CharField(max_length=40, default="", blank=True)
    version = models.CharField(max_length=40)
    state = models.CharField(max_length=8, choices=State.choices, default=State.RUNNING)
    started_at_ms = models.BigIntegerField()
    heartbeat_at_ms = models.BigIntegerField()
    in_flight = models.PositiveIntegerField(default=0)
    #: What waits in the process behind what runs. Null: a process of an earlier version, which does not tell.
    unbegun = models.PositiveIntegerField(null=True, blank=True)
    #: How long the one that has waited longest had been due at the heartbeat; null where none waits.
    oldest_unbegun_ms = models.BigIntegerField(null=True, blank=True)
    consumed = models.BigIntegerField(default=0)
    retried = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    discarded = models.BigIntegerField(default=0)
    #: Publish-to-done of the newest event.
    lag_ms = models.BigIntegerField(null=True, blank=True)
    #: JSON object, bucket to count: see ``lib.latency``.
    latencies = models.TextField(default="{}")
    #: Likewise, how long the handling of an event took. Null: a process of an earlier version, which does not tell.
    consume_times = models.TextField(null=True, blank=True)  # noqa: DJ001 (it leaves the column out)
    rss_bytes = models.BigIntegerField(null=True, blank=True)
    #: Why nothing of the queue runs here: its breaker is open, it cannot start, or it ended badly; empty otherwise.
    breaker = models.TextField(default="", blank=True)
    #: The pause that it obeys, by its time: it takes nothing, and has nothing in hand. Null: it obeys none, and one of
    #: an earlier version never does.
    paused_at_ms = models.BigIntegerField(null=True, blank=True)
    #: By when the last stray had come to it, see ``worker.strays``. Null: none has, or it does not look.
    strayed_at_ms = models.BigIntegerField(null=True, blank=True)
    #: Who has told it to stop, by ``queue_workers stop``; null: nobody has.
    stop_asked_by = models.CharField(max_length=150, null=True, blank=True)  # noqa: DJ001 (earlier versions leave it out)

    class Meta:
        db_table = "zerver_worker_process"
        indexes: ClassVar = [
            models.Index(fields=["queue", "heartbeat_at_ms"], name="zerver_worker_process_queue")
        ]

    def __str__(self) -> str:
        return f"{self.queue} {self.host}:{self.pid}"


class QueueTotals(models.Model):
    """What was counted at a queue by worker processes whose rows are gone: with the rows that are there, counts that
    never fall. See ``worker.totals``.
    """

    queue = models.CharField(primary_key=True, max_length=63)
    consumed = models.BigIntegerField(default=0)
    retried = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    discarded = models.BigIntegerField(default=0)
    #: As a worker process has them.
    latencies = models.TextField(default="{}")
    consume_times = models.TextField(default="{}")

    class Meta:
        db_table = "zerver_queue_totals"

    def __str__(self) -> str:
        return f"{self.queue}: {self.consumed} consumed"


class PausedQueue(models.Model):
    """A queue of which no worker process takes anything, those that start later neither, until somebody resumes it."""

    queue = models.CharField(primary_key=True, max_length=63)
    paused_at_ms = models.BigIntegerField()
    paused_by = models.CharField(max_length=150, default="", blank=True)
    #: In the words of who paused it.
    reason = models.TextField(default="", blank=True)

    class Meta:
        db_table = "zerver_paused_queue"

    def __str__(self) -> str:
        return self.queue

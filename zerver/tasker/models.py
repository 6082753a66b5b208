"""What tasks are kept in. No logic; read and written by ``task_table`` alone.

Times are integers in milliseconds since the epoch, by the database's clock, as in the core's own tables.
"""

from typing import ClassVar

from django.db import models

from zerver.tasker.states import OPEN, TaskState

_IS_OPEN = models.Q(state__in=[state.value for state in OPEN])


class Task(models.Model):
    """A promise: it has a state, attempts and a result, and can be cancelled. Its event is only a knock on the door."""

    #: UUIDv7.
    id = models.CharField(primary_key=True, max_length=36)
    type = models.CharField(max_length=255)
    #: Whose workers run it.
    queue = models.CharField(max_length=63)
    #: The encoded payload, unchanged since it was created; or sealed, see ``sealed_with``.
    payload = models.BinaryField()
    #: The higher, the earlier among those that are due; -100 to 100.
    priority = models.SmallIntegerField(default=0)
    #: What the application knows it by; several may have the same.
    reference = models.CharField(max_length=255, default="", blank=True)
    #: Digest of what no other task of the type may have while this one is open; null: any number may be alike.
    unique_key = models.CharField(max_length=64, null=True, blank=True)  # noqa: DJ001 (nulls are all different)
    #: Until when no other may have it even if this one is finished.
    unique_until_ms = models.BigIntegerField(null=True, blank=True)
    state = models.CharField(
        max_length=9,
        choices=[(state.value, state.value) for state in TaskState],
        default=TaskState.SCHEDULED.value,
    )
    #: As often as it was claimed.
    attempts = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField()
    #: How often it was given a time: names its knocks.
    knocks = models.PositiveIntegerField(default=1)
    created_at_ms = models.BigIntegerField()
    #: When it should run.
    scheduled_at_ms = models.BigIntegerField()
    #: From when it may be claimed: its time, or the end of the present claim.
    available_at_ms = models.BigIntegerField()
    #: Rises with every claim, and is told by whoever writes: the fence that shuts out one who has lost it.
    claim = models.BigIntegerField(default=0)
    #: ``host:pid`` of who claimed it last.
    worker = models.CharField(max_length=300, default="", blank=True)
    #: When it was claimed last.
    started_at_ms = models.BigIntegerField(null=True, blank=True)
    finished_at_ms = models.BigIntegerField(null=True, blank=True)
    #: Somebody wants it no more; it will be told at its next look.
    cancel_asked_at_ms = models.BigIntegerField(null=True, blank=True)
    #: As it said last of how far it is.
    done = models.BigIntegerField(null=True, blank=True)
    total = models.BigIntegerField(null=True, blank=True)
    note = models.TextField(default="", blank=True)
    #: JSON; null: it has none, or not yet.
    result = models.TextField(null=True, blank=True)  # noqa: DJ001 (JSON has a null of its own)
    #: Of the last attempt that failed.
    error = models.TextField(default="", blank=True)
    traceback = models.TextField(default="", blank=True)
    #: Name of the key that the payload is sealed with, see ``lib.vault``; null: it is as it was created.
    sealed_with = models.CharField(max_length=16, null=True, blank=True)  # noqa: DJ001 (as in the core's tables)
    #: Likewise, for result, error and traceback, which are written by another process.
    result_sealed_with = models.CharField(max_length=16, null=True, blank=True)  # noqa: DJ001 (likewise)

    class Meta:
        db_table = "zerver_task"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["type", "unique_key"],
                name="zerver_task_once",
                condition=models.Q(_IS_OPEN, unique_key__isnull=False),
            ),
        ]
        indexes: ClassVar = [
            # By it the most urgent is found: of each priority that there is, the one that has been due the longest.
            models.Index(
                fields=["queue", "priority", "available_at_ms", "id"],
                name="zerver_task_due",
                condition=_IS_OPEN,
            ),
            models.Index(
                fields=["type", "unique_key", "unique_until_ms"],
                name="zerver_task_unique",
                condition=models.Q(unique_key__isnull=False),
            ),
            models.Index(
                fields=["reference", "type"], name="zerver_task_reference", condition=~models.Q(reference="")
            ),
            models.Index(
                fields=["queue"],
                name="zerver_task_failed",
                condition=models.Q(state=TaskState.FAILED.value),
            ),
            # By these it is found which keys are needed, by one look for each.
            models.Index(
                fields=["sealed_with", "queue"],
                name="zerver_task_sealed",
                condition=models.Q(sealed_with__isnull=False),
            ),
            models.Index(
                fields=["result_sealed_with", "queue"],
                name="zerver_task_result_sealed",
                condition=models.Q(result_sealed_with__isnull=False),
            ),
            models.Index(
                fields=["finished_at_ms"],
                name="zerver_task_age",
                condition=models.Q(finished_at_ms__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"

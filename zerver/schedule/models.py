"""What schedules are kept in. No logic; read and written by ``schedule_table`` alone.

Times are integers in milliseconds since the epoch, by the database's clock, as in the core's own tables.
"""

from typing import ClassVar

from django.db import models

from zerver.schedule.values import TickState


class Schedule(models.Model):
    """What happens again and again; the row says how, so that processes of any version agree."""

    name = models.CharField(max_length=200, unique=True)
    #: A declaration in code made it, and code that declares it must run for it to go on.
    is_declared = models.BooleanField()
    #: Empty: it publishes an event.
    task_type = models.CharField(max_length=255, default="", blank=True)
    #: Empty: the task's type says which.
    queue = models.CharField(max_length=63, default="", blank=True)
    #: JSON, or sealed, see ``sealed_with``; null: the work is told of the tick.
    payload = models.BinaryField(null=True, blank=True)
    #: Name of the key that the payload is sealed with, see ``lib.vault``.
    sealed_with = models.CharField(max_length=16, null=True, blank=True)  # noqa: DJ001 (as in the core's tables)
    #: Empty: it ticks every ``seconds``.
    cron = models.CharField(max_length=200, default="", blank=True)
    timezone = models.CharField(max_length=100, default="", blank=True)
    seconds = models.FloatField(default=0)
    catch_up = models.CharField(max_length=8)
    within_seconds = models.FloatField()
    overlap = models.CharField(max_length=8)
    jitter_seconds = models.FloatField(default=0)
    #: The first tick that has not been dealt with; null: there is none any more.
    next_at_ms = models.BigIntegerField(null=True, blank=True)
    #: The moment until which its ticks have been dealt with: by it, whatever becomes of the rhythm, none is lost.
    dealt_until_ms = models.BigIntegerField()
    #: When somebody should look at it: at that tick, or earlier for those that wait, or later after trouble.
    look_at_ms = models.BigIntegerField(null=True, blank=True)
    is_paused = models.BooleanField(default=False)
    paused_note = models.TextField(default="", blank=True)
    #: What has kept the last tick from happening.
    problem = models.TextField(default="", blank=True)
    #: Rises with every change; who writes names the one that it has read.
    revision = models.BigIntegerField(default=0)

    class Meta:
        db_table = "zerver_schedule"
        indexes: ClassVar = [
            models.Index(
                fields=["look_at_ms"],
                name="zerver_schedule_look",
                condition=models.Q(is_paused=False, look_at_ms__isnull=False),
            ),
            models.Index(
                fields=["sealed_with", "queue"],
                name="zerver_schedule_sealed",
                condition=models.Q(sealed_with__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ScheduleTick(models.Model):
    """What became of one tick."""

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, db_index=False)
    at_ms = models.BigIntegerField()
    state = models.CharField(max_length=8, choices=[(state.value, state.value) for state in TickState])
    #: Empty: it created none.
    task_id = models.CharField(max_length=36, default="", blank=True)
    #: It waits; or its task holds up those after it, as far as anybody has seen.
    is_open = models.BooleanField(default=False)
    noted_at_ms = models.BigIntegerField()
    note = models.TextField(default="", blank=True)

    class Meta:
        db_table = "zerver_schedule_tick"
        constraints: ClassVar = [
            # However many processes there are, a tick happens once; newest first, as they are shown.
            models.UniqueConstraint(fields=["schedule", "at_ms"], name="zerver_schedule_tick_once"),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["schedule"],
                name="zerver_schedule_tick_open",
                condition=models.Q(is_open=True),
            ),
            models.Index(fields=["noted_at_ms"], name="zerver_schedule_tick_age"),
        ]

    def __str__(self) -> str:
        return f"{self.schedule_id} {self.at_ms} {self.state}"

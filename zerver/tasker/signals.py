"""What is told of tasks to whoever listens, as ``lib.signals`` does of events: never a payload, never a result."""

from django.dispatch import Signal

#: A worker has claimed a task and is about to run it. Arguments: task_id, type, queue, attempt, max_attempts.
task_started = Signal()
#: An attempt has ended. Arguments: task_id, type, queue, attempt, max_attempts, state (what the task is now), seconds,
#: problem (empty when it succeeded), after_seconds (until its next attempt; None: there is none).
attempt_ended = Signal()
#: Word of a task could not be brought; the sweeper makes it good. Arguments: queue, backend (its alias), problem.
knock_failed = Signal()
#: A worker has met a task that it cannot run. Arguments: task_id, type, queue, problem.
task_left = Signal()

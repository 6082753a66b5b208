"""What the core tells whoever listens; ``monitoring.log`` turns it into log lines, applications into what they like.

A signal carries names, ids and numbers, never an event's body. Receivers run where the thing happened (often on a
worker's handler thread), so they must be quick and must not raise.
"""

from typing import Any, Final

from django.dispatch import Signal

#: Instead of a queue's name: it is of ``queue_scheduler``, which is at none.
SCHEDULER: Final = ""

#: A call has published. Arguments: queue; accepted, lost (how many of its events were stored, and how many could be
#: stored nowhere).
events_published = Signal()
#: An event took the table instead of the fast lane. Arguments: queue, message_ids, problem.
fast_lane_missed = Signal()
#: The connection to the broker changed. Arguments: role ("publisher", "worker"), state, problem.
connection_changed = Signal()
#: An attempt ended in anything but Done. Arguments: queue, message_id, attempt, outcome (its name), problem.
attempt_failed = Signal()
#: A queue's breaker opened or closed in this process. Arguments: queue, is_open, problem.
breaker_changed = Signal()
#: A worker process at a queue started, cannot start, drains, stopped or recycles. Arguments: queue (or ``SCHEDULER``),
#: state, problem; and error, where an exception is behind it.
worker_changed = Signal()
#: The database is away or back while consuming. Arguments: queue (or ``SCHEDULER``), is_away, problem.
database_changed = Signal()
#: A suspect is about to run. Arguments: queue, message_id, crashes, runs_alone.
suspect_started = Signal()
#: A handler ran over its time. Arguments: queue, message_ids, seconds, is_hard.
handler_timed_out = Signal()
#: Workers hear of new rows another way. Arguments: database (alias), is_listening (False: they poll), problem.
waking_changed = Signal()
#: Features are asked to look after what is theirs, see ``ask``: by every worker process, every quarter of a minute or
#: so, on a thread of its own. Arguments: queues (their names).
housekeeping = Signal()
#: Likewise, to forget what finished before a moment; about once an hour. Arguments: before_ms (milliseconds since the
#: epoch).
pruning = Signal()
#: This process sends to the broker, and reads from it, more slowly than it could; told once. Arguments: problem.
fast_lane_slowed = Signal()


def ask(signal: Signal, **arguments: Any) -> None:
    """Have every receiver do what it is asked. Raises: what the first of them raises; all have had their turn then."""
    for _, answer in signal.send_robust(sender=None, **arguments):
        if isinstance(answer, Exception):
            raise answer

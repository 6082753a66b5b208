"""Events that a worker process had and has handed back unbegun, so that whoever gets one next knows that nobody died.

AMQP has one word, redelivered, for what was handed back and for what a dead process held. So a process writes down
what it hands back, before it does; and whoever takes such an event strikes it out, before it runs: from then on it is
on its own. A process that dies between the two has begun none of them.
"""

from collections.abc import Sequence

from zerver.lib.database import perform
from zerver.models import HandedBack
from zerver.worker import known_ids


def note(queue: str, message_ids: Sequence[str], alias: str) -> None:
    """They are about to go back. Raises: TransportUnavailable; to note them again is harmless."""
    perform(alias, lambda connection: known_ids.enter(connection, HandedBack, "at_ms", queue, message_ids))


def strike_out(queue: str, message_ids: Sequence[str], alias: str) -> set[str]:
    """Those that had been handed back; from now on they are like any other. Raises: TransportUnavailable."""
    return known_ids.strike_out(alias, HandedBack, queue, message_ids)

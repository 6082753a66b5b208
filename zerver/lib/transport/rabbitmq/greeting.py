"""What a broker says of itself as it lets us in, and what is to be done differently for that.

Its version counts, and not that it took something: an argument that a version does not know, it ignores in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zerver.lib.transport.survey import version_numbers

#: Queues and policies may have a consumer timeout of their own from here on; before, theirs is ignored.
_QUEUES_HAVE_TIMEOUTS = (3, 12)
#: From here on quorum queues alone have one, a consumer may choose it, and one that runs out cancels the consumer where
#: it closed the channel before. Classic queues refuse the argument.
_CONSUMERS_HAVE_TIMEOUTS = (4, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """Of one connection."""

    #: As the broker tells it, ``3.10.8``; "" before it did.
    version: str = ""

    @classmethod
    def of(cls, server_properties: Mapping[str, Any] | None) -> "Greeting":
        """As they came with ``connection.start``."""
        return cls(version=str((server_properties or {}).get("version", "")))

    def heeds_timeouts_of_queues(self) -> bool:
        """Does a consumer timeout in a queue's arguments, or in a policy, count there?"""
        return self._numbers >= _QUEUES_HAVE_TIMEOUTS

    def leaves_timeout_to_consumers(self, queue_type: str) -> bool:
        """May we say ourselves how long an event of such a queue is left in our hands?"""
        return queue_type == "quorum" and self._numbers >= _CONSUMERS_HAVE_TIMEOUTS

    def has_timeout(self, queue_type: str) -> bool:
        """Does it take events of such a queue away at all from who holds them for too long?"""
        return queue_type == "quorum" or self._numbers < _CONSUMERS_HAVE_TIMEOUTS

    @property
    def _numbers(self) -> tuple[int, ...]:
        return version_numbers(self.version)

"""Publishing for those who have no word for many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]


class OneByOne(ABC):
    @abstractmethod
    def publish(self, event: Event) -> None: ...

    def publish_many(self, events: Sequence[Event]) -> None:
        for event in events:
            self.publish(event)

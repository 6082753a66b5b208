"""Publishing for those who do it in coroutines: the process has a loop, and waits for it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from tests.bench.apps.publisher import Event

#: Publishes that await their confirms at a time, where many are wanted.
AT_ONCE = 100


class LoopPublisher(ABC):
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self.begin())

    @abstractmethod
    async def begin(self) -> None:
        """Connect."""

    @abstractmethod
    async def send(self, event: Event) -> None:
        """Returns when it is confirmed."""

    def publish(self, event: Event) -> None:
        self._loop.run_until_complete(self.send(event))

    def publish_many(self, events: Sequence[Event]) -> None:
        self._loop.run_until_complete(self._send_many(events))

    async def _send_many(self, events: Sequence[Event]) -> None:
        waiting = iter(events)

        async def send_on() -> None:
            for event in waiting:
                await self.send(event)

        await asyncio.gather(*(send_on() for _ in range(AT_ONCE)))

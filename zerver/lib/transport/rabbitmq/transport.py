"""RabbitMQ as a transport: publishing, lanes, and what operators do to queues."""

import os
from collections.abc import Callable, Sequence

from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Depth, Published, Transport
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.admin import BrokerAdmin
from zerver.lib.transport.rabbitmq.connection import BrokerConnection
from zerver.lib.transport.rabbitmq.lane import RabbitLane
from zerver.lib.transport.rabbitmq.patience import too_short
from zerver.lib.transport.rabbitmq.publisher import Publisher
from zerver.lib.transport.rabbitmq.shared import SharedConnection
from zerver.lib.transport.rabbitmq.surveyor import survey
from zerver.lib.transport.survey import USUAL_CONSUMER_TIMEOUT_SECONDS, BrokerSurvey

#: How long to wait for the broker to say goodbye.
CLOSE_SECONDS = 5.0


class RabbitTransport(Transport):
    """Opens no connection before it is used."""

    name = "rabbitmq"

    def __init__(
        self,
        address: BrokerAddress,
        declaration_of: Callable[[str], QueueDeclaration],
        *,
        management_url: str = "",
    ) -> None:
        self._address = address
        self._publisher = Publisher(address, declaration_of)
        self._shared_by_pid: dict[int, SharedConnection] = {}
        #: By queue, where the broker told it.
        self._consumer_timeouts: dict[str, float] = {}
        self.admin = BrokerAdmin(address, management_url)

    @property
    def is_away(self) -> bool:
        """Whether the last that this process knows of the broker is that it takes no events."""
        return self._publisher.is_away

    def publish(
        self, events: Sequence[Event], timeout_seconds: float, delay_seconds: float = 0
    ) -> list[Published]:
        if delay_seconds:
            raise ValueError("the fast lane carries what is due now; delays belong in the event table")
        return self._publisher.publish(events, timeout_seconds)

    def begin(self, events: Sequence[Event], timeout_seconds: float) -> Callable[[float], list[Published]]:
        return self._publisher.begin(events, timeout_seconds)

    def open_lane(
        self, queue: QueueDeclaration, owner: str, *, consumer_timeout_seconds: float | None = None
    ) -> RabbitLane:
        shared = self._shared_by_pid.get(os.getpid())
        if shared is None:
            # Connections do not survive a fork; see Publisher for why there is no lock.
            shared = self._shared_by_pid.setdefault(os.getpid(), SharedConnection(self._connect))
        told = self._consumer_timeouts.get(queue.name, USUAL_CONSUMER_TIMEOUT_SECONDS)
        return RabbitLane(shared, queue, owner, consumer_timeout_seconds=consumer_timeout_seconds or told)

    def check_queue(self, queue: QueueDeclaration) -> None:
        """Declare it, wait for the answer, and see that its handlers have the time that they may take.

        Raises: QueueMismatch, ConsumerTimeoutTooShort, AuthenticationRefused, TransportUnavailable.
        """
        told = self.admin.declare_for_worker(queue)
        if told is not None:
            problem = too_short(queue, told)
            if problem is not None:
                raise problem
            self._consumer_timeouts[queue.name] = told

    def purge(self, queue: QueueDeclaration, progress: Callable[[int], object] | None = None) -> int:
        return self.admin.purge(queue.name)

    def depth(self, queue: QueueDeclaration) -> Depth:
        return self.admin.depth(queue.name)

    def depths(self, queues: Sequence[QueueDeclaration]) -> dict[str, Depth]:
        return self.admin.depths([queue.name for queue in queues])

    def survey(self, queues: Sequence[QueueDeclaration], timeout_seconds: float) -> BrokerSurvey:
        return survey(self._address, self.admin, queues, timeout_seconds)

    def close(self) -> None:
        self._publisher.close(CLOSE_SECONDS)
        shared = self._shared_by_pid.pop(os.getpid(), None)
        if shared is not None:
            shared.close(CLOSE_SECONDS)

    def _connect(self, name: str, *, is_quiet: bool) -> BrokerConnection:
        return BrokerConnection(self._address, "worker", name, is_quiet=is_quiet)

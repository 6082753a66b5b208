"""What can be said of an event without asking the broker: what it refused lately, and where it has fallen silent."""

from zerver.lib.clock import monotonic
from zerver.lib.event import Event
from zerver.lib.transport.base import Published
from zerver.lib.transport.rabbitmq.circuit import Circuit
from zerver.lib.transport.rabbitmq.flight import refused
from zerver.lib.transport.rabbitmq.topology import MEMORY_SECONDS

NOT_CONFIRMING = refused("the broker has stopped confirming events of this queue")


class Knowledge:
    """Of one connection; asked on any thread, told on the loop."""

    def __init__(self) -> None:
        self.circuit = Circuit()
        #: Learnt when the broker refused a body; AMQP does not tell it before.
        self._max_body_bytes: int | None = None
        #: Queue to (problem, until).
        self._refusals: dict[str, tuple[str, float]] = {}

    @property
    def is_empty(self) -> bool:
        """Nothing is known that could refuse an event; so it is nearly always, and nobody need look at each."""
        return self._max_body_bytes is None and not self._refusals and self.circuit.is_closed

    def refusal(self, event: Event, timeout_seconds: float) -> Published | None:
        """None: the broker must be asked, and whoever asks this is expected to do so."""
        limit = self._max_body_bytes
        if limit is not None and len(event.body) > limit:
            return too_large(event, limit)
        now = monotonic()
        problem, until = self._refusals.get(event.queue, ("", 0.0))
        if now < until:
            return refused(problem)
        if not self.circuit.claim_pass(event.queue, now, timeout_seconds):
            return NOT_CONFIRMING
        return None

    def takes_at_most(self, size_bytes: int) -> None:
        self._max_body_bytes = size_bytes

    def refuses(self, queue: str, problem: str) -> None:
        """For a while nobody need ask again."""
        self._refusals[queue] = (problem, monotonic() + MEMORY_SECONDS)

    def begin_anew(self) -> None:
        """A fresh connection: the broker may have been mended meanwhile. What it takes at most stays what it was."""
        self._refusals.clear()
        self.circuit.clear()


def too_large(event: Event, limit_bytes: int) -> Published:
    return refused(
        f"{len(event.body)} bytes are over the broker's max_message_size ({limit_bytes})", event_at_fault=True
    )

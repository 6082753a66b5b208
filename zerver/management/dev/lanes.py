"""Which lanes carried a demonstration: what is configured is not what answers."""

from dataclasses import dataclass, field

from zerver.lib.errors import TransportError
from zerver.lib.printable import one_line
from zerver.lib.registry import queues
from zerver.lib.transport import current


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """The lanes at one moment, or at several."""

    answering: tuple[str, ...]
    #: Lane to why it did not answer.
    away: dict[str, str] = field(default_factory=dict)

    @property
    def carried_by(self) -> str:
        """Shape: ``rabbitmq and database``."""
        return " and ".join(self.answering)

    def and_then(self, later: "Lanes") -> "Lanes":
        """Those that answered both times. One that was away in between, and took some events, may be among them."""
        return Lanes(
            answering=tuple(name for name in self.answering if name in later.answering),
            away={**later.away, **self.away},
        )


def look_at_lanes(queue_name: str) -> Lanes:
    """Ask each lane for this queue's depth."""
    answering: list[str] = []
    away: dict[str, str] = {}
    for lane in current.worker_lanes():
        try:
            lane.depth(queues.lookup(queue_name))
        except TransportError as error:
            away[lane.name] = one_line(error)
        else:
            answering.append(lane.name)
    return Lanes(answering=tuple(answering), away=away)

"""What is done with each peer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from tests.bench.figures import Figures
from tests.bench.peer import Peer
from tests.bench.setting import Setting
from tests.bench.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(ABC):
    """``name`` is for the command line, ``title`` for people. The first of ``figures`` is the one that is drawn."""

    name: str
    title: str
    #: By name, in the order of their turns.
    peers: tuple[str, ...]
    setting: Setting = field(default_factory=Setting)
    #: Left out by ``--quick``.
    is_long: bool = False
    #: How many rounds at most: some figures hardly vary.
    most_rounds: int = 99

    #: Cases of one kind stand together in the report.
    group: ClassVar[str]
    #: What is done, in a sentence or two.
    how: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]

    def circumstances(self) -> str:
        """Of its setting, what there is to tell."""
        return str(self.setting)

    @abstractmethod
    def measure(self, site: Site, peer: Peer) -> Figures:
        """One round of one peer.

        Raises: CannotRunError with the reason; whatever goes wrong, which ends this peer's part in the case.
        """

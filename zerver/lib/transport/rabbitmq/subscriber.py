"""What a subscription tells whoever takes what comes of it, and asks."""

from abc import ABC, abstractmethod

from zerver.lib.transport.rabbitmq.deliveries import Delivered


class Subscriber(ABC):
    """All of it is called on the I/O thread."""

    @abstractmethod
    def on_channel(self) -> None:
        """A fresh channel is open; nothing has come on it yet."""

    @abstractmethod
    def on_deliveries(self, deliveries: list[Delivered]) -> None:
        """In the order they came; not empty."""

    @abstractmethod
    def on_leaving(self) -> None:
        """The channel is about to be left by us: what is settled can be said on it for the last time."""

    @abstractmethod
    def on_void(self) -> None:
        """All that came on the present channel is no longer ours; it comes again."""

    @abstractmethod
    def on_shorter_timeout(self) -> None:
        """``consumer_timeout_seconds`` is less than was thought."""

    @abstractmethod
    def on_fault(self) -> None:
        """To subscribe breaks the connection, of others too."""

    @abstractmethod
    def wanted_prefetch(self) -> int:
        """For a consumer that begins now; 0: not yet."""

    @abstractmethod
    def on_consuming(self, prefetch: int) -> None:
        """One begins now."""

    @abstractmethod
    def holds_nothing(self) -> bool:
        """All that came on this channel is settled."""

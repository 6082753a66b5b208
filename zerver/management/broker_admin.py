"""The broker's own verbs, for commands that not only look at queues."""

from typing import TYPE_CHECKING

from zerver.lib.transport import current

if TYPE_CHECKING:
    from zerver.lib.transport.rabbitmq.admin import BrokerAdmin


def broker_admin() -> "BrokerAdmin | None":
    """None where there is the event table alone."""
    fast = current.fast_lane()
    if fast is None:
        return None
    # The driver, which has been loaded by now.
    from zerver.lib.transport.rabbitmq import RabbitTransport

    assert isinstance(fast, RabbitTransport)  # noqa: S101 (narrows the type)
    return fast.admin

"""RabbitMQ, the fast lane. The only importer of pika; other rooms use ``open_transport`` alone."""

from zerver.lib.conf import QueueSettings
from zerver.lib.registry import queues
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.transport import RabbitTransport

__all__ = ["RabbitTransport", "open_transport"]


def open_transport(settings: QueueSettings) -> RabbitTransport:
    """The transport of ``QUEUE_URL``; connects when it is first used. Raises: InvalidSetting."""
    address = parse_address(settings.url, settings.password_file)
    return RabbitTransport(address, queues.lookup, management_url=settings.management_url)

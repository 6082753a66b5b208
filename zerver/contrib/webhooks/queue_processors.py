"""``incoming_webhooks``: stores what the view accepted, and publishes who was active."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from django.apps import apps

from zerver.contrib.moments import storable
from zerver.contrib.webhooks.models import IncomingWebhook
from zerver.lib.conf import get_settings
from zerver.lib.queue import queue_json_publish
from zerver.worker.base import QueueProcessingWorker, assign_queue, current_delivery

_LONGEST_LOGIN = 255


class IncomingWebhookEvent(TypedDict):
    """A verified webhook on its way from the view."""

    source: str
    #: ``X-GitHub-Event``.
    event: str
    #: ``X-GitHub-Delivery``.
    delivery: NotRequired[str]
    payload: dict[str, Any]


@assign_queue("incoming_webhooks", transactional=True)
class IncomingWebhooksWorker(QueueProcessingWorker):
    """The row and the activity are one transaction with the inbox: both happen, once, or neither does."""

    def consume(self, event: IncomingWebhookEvent) -> None:
        delivery = current_delivery()
        webhook = IncomingWebhook(
            message_id=delivery.message_id,
            source=event["source"],
            event=event["event"],
            delivery=event.get("delivery", ""),
            sender=sender_login(event["payload"]),
            payload=event["payload"],
            received_at=storable(delivery.published_at),
        )
        # Where the inbox is: elsewhere it would commit on its own, and a crash in between lose the activity.
        is_new = IncomingWebhook.objects.using(get_settings().database).store_once(webhook)
        if is_new and webhook.sender and apps.is_installed("zerver.contrib.activity"):
            queue_json_publish(
                "user_activity",
                {
                    "user": webhook.sender,
                    "client": webhook.source,
                    "query": webhook.event,
                    "time": delivery.published_at,
                },
            )


def sender_login(payload: Mapping[str, Any]) -> str:
    """Who caused the webhook, by GitHub's ``sender.login``; empty where the payload names nobody that could be."""
    sender = payload.get("sender")
    login = sender.get("login") if isinstance(sender, Mapping) else None
    if not isinstance(login, str) or len(login) > _LONGEST_LOGIN or "\0" in login:
        return ""
    return login

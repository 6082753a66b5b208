"""Webhooks that were received."""

from typing import ClassVar

from django.db import IntegrityError, models, transaction


class IncomingWebhookQuerySet(models.QuerySet["IncomingWebhook"]):
    def store_once(self, webhook: "IncomingWebhook") -> bool:
        """Insert it; False when it is there already, as the same event or as an earlier delivery of the sender's."""
        self._for_write = True
        alias = self.db
        try:
            with transaction.atomic(using=alias):
                webhook.save(using=alias, force_insert=True)
        except IntegrityError:
            if not self.using(alias).same_as(webhook).exists():
                raise
            return False
        return True

    def same_as(self, webhook: "IncomingWebhook") -> "IncomingWebhookQuerySet":
        same = models.Q(message_id=webhook.message_id)
        if webhook.delivery:
            same |= models.Q(source=webhook.source, delivery=webhook.delivery)
        return self.filter(same)


class IncomingWebhook(models.Model):
    """A webhook as it came, once."""

    #: Message id of the event that brought it.
    message_id = models.CharField(max_length=255, unique=True)
    source = models.CharField(max_length=100)
    #: ``X-GitHub-Event``.
    event = models.CharField(max_length=100)
    #: ``X-GitHub-Delivery``: the same when the sender sends it again; empty when it sent none.
    delivery = models.CharField(max_length=100, default="", blank=True)
    #: Login of who caused it; empty when the payload names nobody.
    sender = models.CharField(max_length=255, default="", blank=True)
    payload = models.JSONField()
    #: When the view accepted it.
    received_at = models.DateTimeField()

    objects = IncomingWebhookQuerySet.as_manager()

    class Meta:
        db_table = "zerver_incoming_webhook"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "delivery"],
                condition=~models.Q(delivery=""),
                name="zerver_incoming_webhook_once",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["source", "event", "received_at"], name="zerver_incoming_webhook_event"),
        ]

    def __str__(self) -> str:
        return f"{self.source} {self.event} {self.delivery or self.message_id}"

from django.db import models


class Effect(models.Model):
    """An effect in the database, beside those in the ledger file."""

    message_id = models.CharField(max_length=255)
    n = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.n} by {self.message_id}"

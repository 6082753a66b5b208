"""Why a webhook is not accepted, as the sender is told."""

from dataclasses import dataclass

from zerver.lib.errors import ZerverError


@dataclass(eq=False)
class WebhookRefused(ZerverError):
    """Not accepted; nothing was stored. The text goes to the sender: no secret and nothing of our insides in it."""

    #: HTTP status.
    status: int
    problem: str
    #: Where in the body, like ``$.commits[3].id``; empty when it is not about a place.
    path: str = ""

    def __str__(self) -> str:
        return f"{self.problem} (at {self.path})" if self.path else self.problem

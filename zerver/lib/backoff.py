"""The retry policy: how often something is tried again, and how long it waits in between."""

import math
import random
from dataclasses import dataclass

from zerver.lib.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempts, exponential backoff, cap and jitter.

    The wait after attempt ``n`` is drawn from 0 to ``min(cap_seconds, base_seconds * factor ** (n - 1))``:
    full jitter, which spreads a crowd of retries best.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    #: Attempts in all, the first included; after the last the event is dead.
    max_attempts: int = 5
    base_seconds: float = 1.0
    factor: float = 4.0
    cap_seconds: float = 3600.0
    #: Share of the wait that is drawn at random: 1 is full jitter, 0 none.
    jitter: float = 1.0

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise ConfigurationError(
                f"RetryPolicy: max_attempts is {self.max_attempts!r}; it must be a whole number, 1 or more"
            )
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or not least <= value <= most:
                limits = f"{least} or more" if most == math.inf else f"between {least} and {most}"
                raise ConfigurationError(f"RetryPolicy: {name} is {value!r}; it must be a number, {limits}")

    def delay_seconds(self, attempt: int, rng: random.Random | None = None) -> float:
        """How long to wait after the given attempt (1 is the first) has failed."""
        try:
            ceiling = min(self.cap_seconds, self.base_seconds * self.factor ** (attempt - 1))
        except OverflowError:
            ceiling = self.cap_seconds if self.base_seconds else 0.0
        draw = (rng or _rng).random()
        return ceiling * (1 - self.jitter + self.jitter * draw)


#: Shape: (field, least, most).
_BOUNDS = (
    ("base_seconds", 0, math.inf),
    ("factor", 1, math.inf),
    ("cap_seconds", 0, math.inf),
    ("jitter", 0, 1),
)

_rng = random.Random()  # noqa: S311 (spreads load, guards nothing)

"""What is wrong with a schedule, or with what is asked of it. Nothing was stored or changed where one of these
rises.
"""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from zerver.lib.errors import ConfigurationError, ZerverError

#: Of a name that is none. Units: characters.
_TOLD: Final = 200


class ScheduleError(ZerverError):
    """Root of what is wrong with one schedule; what is wrong with a declaration is a ConfigurationError as well."""


@dataclass(eq=False)
class ScheduleNotFound(ScheduleError):
    """No installed app declares it, and nobody has created it."""

    name: str
    known: Collection[str]

    def __str__(self) -> str:
        name = str(self.name)[:_TOLD]
        close = get_close_matches(name, self.known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else "./manage.py queue_schedules list shows all"
        return f"there is no schedule {name!r}; {mend}"


@dataclass(eq=False)
class ScheduleRefused(ScheduleError):
    """What was asked of it cannot be."""

    name: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"schedule {self.name!r}: {self.problem}; {self.mend}"


class InvalidSchedule(ScheduleRefused, ConfigurationError):
    """``@every``, ``@cron`` or ``schedules.create`` was given something that a schedule cannot be."""

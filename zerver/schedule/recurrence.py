"""When a schedule ticks: a moment is a tick or is not, whoever asks and whenever. Nothing here knows what time it is.

Units: milliseconds since the epoch throughout.
"""

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, Protocol

from cronsim import CronSim, CronSimError

from zerver.lib.errors import ZerverError

#: What crontabs say in one word.
NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
#: Files of the time zones' database that are another zone on each host.
_OF_THE_HOST: Final = ("localtime", "posixrules")
_LONGEST_LINE: Final = 200
#: A first look backwards for the newest tick goes so far; each further one sixteen times as far.
_FIRST_LOOK_MS: Final = 60_000
#: Python's datetime ends soon after; nothing that is due then is anybody's concern.
_END_MS: Final = 250_000_000_000_000
#: 2024-01-01: when it is asked whether a line ever ticks.
_SOME_DAY_MS: Final = 1_704_067_200_000


class Recurrence(Protocol):
    """All its ticks, from the beginning to the end of time."""

    def after(self, at_ms: int) -> int | None:
        """The first tick later than that; None: there is none within fifty years."""
        ...


class NoRecurrence(ZerverError):
    """What was given describes none: what is wrong, and what would be right."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}; {mend}")
        self.problem, self.mend = problem, mend


@dataclass(frozen=True, slots=True)
class Every:
    """At the multiples of a span of time since 1970 began in UTC: every hour is at the full hour, on whichever host and
    however often somebody starts anew.
    """

    span_ms: int

    def after(self, at_ms: int) -> int | None:
        found = (at_ms // self.span_ms + 1) * self.span_ms
        return found if found < _END_MS else None


@dataclass(frozen=True, slots=True)
class Cron:
    """As Debian's cron reads a line, with seconds in front if it has six fields.

    A time of day that the clocks leave out in spring ticks when they have been put forward; one that they show twice in
    autumn ticks the first time. A line with ``*`` for its minutes or hours goes by what has passed, and ticks through
    both. (Lines with seconds always do.)
    """

    line: str
    timezone: str

    def after(self, at_ms: int) -> int | None:
        """Raises: NoRecurrence."""
        moments = self._moments(at_ms)
        # Where clocks were put back the parser starts from what they show, and may find what is over.
        return next((found for found in moments if found > at_ms), None)

    def _moments(self, at_ms: int) -> Iterator[int]:
        zone = _zone(self.timezone)
        try:
            # Full seconds, for it counts in them.
            start = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(zone)
            # One that is in the second showing of an hour would be taken for the first, which only looks further back.
            found = CronSim(NICKNAMES.get(self.line.lower(), self.line), start)
            for moment in found:
                yield int(moment.timestamp()) * 1000
        except (CronSimError, OverflowError, ValueError) as error:
            told = str(error).lower()
            if "day-of-month" in told:
                told += ", or one that its months never have"
            raise NoRecurrence(f"cron line {self.line!r}: {told}", _LINE_MEND) from error


_LINE_MEND: Final = (
    "give minute, hour, day of month, month and day of week, as in '0 7 * * 1-5'; seconds may stand in front"
)


def every(seconds: float) -> Every:
    """Raises: NoRecurrence."""
    span_ms = round(seconds * 1000)
    if not 1000 <= span_ms <= 366 * 86_400_000:
        raise NoRecurrence(f"every {seconds:g} s", "give from one second to 366 days")
    return Every(span_ms)


def cron(line: object, timezone: object) -> Cron:
    """Raises: NoRecurrence, of a line that never ticks as well."""
    written = " ".join(line.split()) if isinstance(line, str) else ""
    if not written or len(written) > _LONGEST_LINE or not written.isprintable():
        raise NoRecurrence(f"cron line {_short(line)}", _LINE_MEND)
    if not isinstance(timezone, str):
        raise NoRecurrence(f"timezone={timezone!r}", "give its name, as in 'Europe/Berlin'")
    made = Cron(written, timezone)
    if made.after(_SOME_DAY_MS) is None:
        raise NoRecurrence(f"cron line {written!r} never ticks", "give a day that some month has")
    return made


def latest(recurrence: Recurrence, from_ms: int, until_ms: int) -> int | None:
    """The newest tick from the one moment on, and no later than the other; None: there is none.

    It looks back a little, and further, so that a year of seconds costs no more than a minute of them.
    """
    look_ms = _FIRST_LOOK_MS
    while True:
        start = max(from_ms, until_ms - look_ms)
        if found := list(between(recurrence, start, until_ms)):
            return found[-1]
        if start == from_ms:
            return None
        look_ms *= 16


def between(recurrence: Recurrence, from_ms: int, until_ms: int) -> Iterator[int]:
    """The ticks from the one moment on, and no later than the other; the first first."""
    found = recurrence.after(from_ms - 1)
    while found is not None and found <= until_ms:
        yield found
        found = recurrence.after(found)


def _short(line: object) -> str:
    told = repr(line)
    return told if len(told) <= _LONGEST_LINE else f"{told[:_LONGEST_LINE]}…"


@lru_cache(maxsize=256)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        if name in _OF_THE_HOST:
            raise ValueError(name)
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        # OSError: a directory of the database, such as "Europe".
        known = zoneinfo.available_timezones()
        # Abbreviations such as EST are zones too, and never the one that is meant.
        close = get_close_matches(name, [each for each in known if "/" in each], n=1)
        mend = f"did you mean {close[0]!r}?" if close else "give a name such as 'Europe/Berlin'"
        if not known:
            mend = "this host has no time zones: install the package tzdata, of the system or of PyPI"
        raise NoRecurrence(f"time zone {name!r} is unknown", mend) from error

"""Zulip's cron form: what a plugin found, left in a file for a reader who may do nothing else.

Shape: ``timestamp|status|STATE|message``, a line; the timestamp in seconds since the epoch, the status an exit code.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zerver.monitoring.thresholds import Level
from zerver.nagios.report import EXIT_CODES, Report

_READABLE_BY_ALL = 0o644
#: Of a reader's clock behind a writer's, who may be another host.
_AHEAD_SECONDS = 60
_LEVELS = {code: level for level, code in EXIT_CODES.items()}


def write(path: Path, report: Report, *, now: float) -> None:
    """Seen as it was or as it will be; who may read it is not left to the umask. Raises: OSError."""
    line = f"{int(now)}|{EXIT_CODES[report.level]}|{report.level.name}|{report.message}\n"
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    with suppress(FileNotFoundError):
        fresh.unlink()  # left by one that was killed, and had this pid
    # Not through a link that somebody may have put there: the directory may be one that all may write.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line)
            os.fchmod(descriptor, _READABLE_BY_ALL)
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a state file says, or why it says nothing."""

    level: Level
    message: str


def read(path: Path, *, now: float, max_age_seconds: float) -> Found:
    """UNKNOWN for a file that is missing, no such file, or older than that."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _unknown(
            f"{path} is not there: does cron run the plugin that writes it, by --state-file, as this user may read?"
        )
    except OSError as error:
        return _unknown(f"{path} cannot be read ({error.strerror or error})")
    except UnicodeDecodeError:
        return _unknown(f"{path} is no state file: it is not UTF-8")
    fields = text.strip().split("|")
    if len(fields) != 4 or not all(field.isascii() and field.isdecimal() for field in fields[:2]):
        return _unknown(f"{path} is no state file: it does not say timestamp|status|STATE|message")
    level = _LEVELS.get(int(fields[1][:9]))
    if level is None or level.name != fields[2]:
        return _unknown(f"{path} is no state file: status {fields[1][:9]} is not {fields[2][:20]!r}")
    age = now - int(fields[0][:15])
    if age > max_age_seconds:
        return _unknown(
            f"{path} was written {age:.0f} s ago: cron does not run its plugin, or it cannot write"
        )
    if age < -_AHEAD_SECONDS:
        return _unknown(f"{path} is from the future, by {-age:.0f} s: clocks differ, or it is no state file")
    return Found(level=level, message=fields[3])


def _unknown(message: str) -> Found:
    return Found(level=Level.UNKNOWN, message=message)

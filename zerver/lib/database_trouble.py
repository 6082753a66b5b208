"""What is the matter with a database that does not do what was asked: in words, and with the mend."""

from typing import Final, NamedTuple

from django.db import DatabaseError, Error, InterfaceError, OperationalError

from zerver.lib.errors import DatabaseUnfit, TransportUnavailable


class _Trouble(NamedTuple):
    """See ``DatabaseUnfit``."""

    state: str
    mend: str


_UNMIGRATED: Final = _Trouble("has not all of our tables", "run ./manage.py migrate")
_LOCKED_FILE: Final = _Trouble(
    "is locked", "somebody holds a transaction open: see who has the file open (fuser -v), and try again"
)
_LOCKED: Final = _Trouble("is locked", "see in pg_stat_activity who holds a transaction open, and try again")
_FULL: Final = _Trouble("is full", "make room on its disk")

#: By the beginning of SQLite's name of the error, the more special ones first.
_OF_SQLITE: Final = {
    "SQLITE_READONLY_DIRECTORY": _Trouble(
        "cannot be read",
        "in WAL mode SQLite writes beside its file even to read it, unless a worker has it open: make the directory "
        "writable for this user",
    ),
    "SQLITE_READONLY": _Trouble("is read-only", "make its file and directory writable for this user"),
    "SQLITE_CANTOPEN": _Trouble(
        "cannot be opened", "see that the file's directory is there, and that this user may write there"
    ),
    "SQLITE_BUSY": _LOCKED_FILE,
    "SQLITE_LOCKED": _LOCKED_FILE,
    "SQLITE_FULL": _FULL,
    "SQLITE_IOERR": _Trouble("fails at its file", "see what is wrong with the disk"),
    "SQLITE_CORRUPT": _Trouble("is damaged", "restore it from a copy"),
    "SQLITE_NOTADB": _Trouble("is no SQLite file", "see what DATABASES names"),
}

#: PostgreSQL's ``sqlstate``: "read only sql transaction".
_READ_ONLY: Final = "25006"
#: Source: PostgreSQL's documentation, appendix A.
_OF_POSTGRESQL: Final = {
    "42P01": _UNMIGRATED,  # undefined table
    "42703": _UNMIGRATED,  # undefined column
    _READ_ONLY: _Trouble("takes no writes", "it is a standby, or was demoted: name the primary in DATABASES"),
    "55P03": _LOCKED,  # lock not available
    "57014": _LOCKED,  # query canceled: statement_timeout
    "40P01": _LOCKED,  # deadlock detected
    "53100": _FULL,  # disk full
    "42501": _Trouble("refuses this user", "grant the user of DATABASES all rights on the project's tables"),
}


#: What may be so for this user, or over this connection, alone.
_REFUSED: Final = frozenset(
    trouble.state
    for trouble in (
        _OF_SQLITE["SQLITE_READONLY_DIRECTORY"],
        _OF_SQLITE["SQLITE_READONLY"],
        _OF_POSTGRESQL[_READ_ONLY],
        _OF_POSTGRESQL["42501"],
    )
)


def unavailable(alias: str, error: Error) -> TransportUnavailable:
    """An error of Django's as ours: which database, how it stands, what it said, and the mend."""
    what, said = f"database {alias!r}", first_line(error)
    trouble = _trouble_of(error)
    if trouble is not None:
        return DatabaseUnfit(what, said, *trouble)
    # A file is always within reach.
    is_away = isinstance(error, OperationalError | InterfaceError) and not _sqlite_name(error)
    return TransportUnavailable(what, said) if is_away else DatabaseUnfit(what, said, "cannot be asked")


def is_locked(problem: TransportUnavailable) -> bool:
    """Somebody else has it just now."""
    return isinstance(problem, DatabaseUnfit) and problem.state == _LOCKED.state


def is_refused(problem: TransportUnavailable) -> bool:
    """We may not do it; others may be let: another user, or over another connection."""
    return isinstance(problem, DatabaseUnfit) and problem.state in _REFUSED


def is_unmigrated(error: Exception) -> bool:
    """A table or a column is missing: an operational error of SQLite's, a programming error of PostgreSQL's."""
    return isinstance(error, Error) and _trouble_of(error) is _UNMIGRATED


def is_read_only(error: BaseException | None) -> bool:
    """A standby, or a primary that was demoted (25006). SQLite's read-only file is an operational error."""
    return isinstance(error, DatabaseError) and _sqlstate(error) == _READ_ONLY


def first_line(error: Exception) -> str:
    """PostgreSQL's messages go over several lines: the statement and where in it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _trouble_of(error: Error) -> _Trouble | None:
    said = str(error)
    # SQLite has no name of its own for these.
    if said.startswith(("no such table", "no such column")) or "has no column named" in said:
        return _UNMIGRATED
    for beginning, trouble in _OF_SQLITE.items():
        if _sqlite_name(error).startswith(beginning):
            return trouble
    return _OF_POSTGRESQL.get(_sqlstate(error))


def _sqlite_name(error: BaseException) -> str:
    """Like ``SQLITE_BUSY``; "" where it is none of SQLite's."""
    return getattr(error.__cause__, "sqlite_errorname", "")


def _sqlstate(error: BaseException) -> str:
    """Five letters of PostgreSQL's, as psycopg 3 names them, or 2; "" where there are none."""
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""

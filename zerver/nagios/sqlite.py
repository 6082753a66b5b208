"""SQLite's file, read without a trace: no lock that a writer would wait for, and no file beside it."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zerver.lib.printable import one_line
from zerver.monitoring.thresholds import Level
from zerver.nagios import sql
from zerver.nagios.database import MEND_TABLES, Database, Trouble, trouble_of
from zerver.nagios.deadline import Deadline
from zerver.nagios.errors import cannot_ask

#: Of the file's header: the format that is read, 2 in WAL mode. Source: https://www.sqlite.org/fileformat.html
_READ_VERSION, _WAL = 19, 2


class Sqlite(Database):
    def __init__(self, path: Path) -> None:
        self._path = path

    def trouble(self, since_seconds: float, deadline: Deadline) -> Trouble:
        deadline.waits_for(str(self._path), Level.UNKNOWN)
        try:
            with closing(sqlite3.connect(self._uri(), uri=True, timeout=deadline.seconds)) as connection:

                def ask(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
                    return connection.execute(statement, parameters).fetchall()

                [(now_ms,)] = ask(sql.NOW_SQLITE, {})
                [(has_tasks,)] = ask(sql.HAS_TASKS_SQLITE, {})
                [(has_schedules,)] = ask(sql.HAS_SCHEDULES_SQLITE, {})
                return trouble_of(
                    ask,
                    now_ms,
                    since_seconds,
                    has_tasks=bool(has_tasks),
                    has_schedules=bool(has_schedules),
                )
        except OSError as error:
            raise cannot_ask(
                f"{self._path} cannot be read ({error.strerror or error})", "see --sqlite"
            ) from None
        except sqlite3.Error as error:
            raise cannot_ask(f"{self._path} does not tell: {one_line(error)}", MEND_TABLES) from None

    def _uri(self) -> str:
        """In WAL mode even a reader makes ``-wal`` and ``-shm`` where there are none, as whoever it runs as: workers
        could then not write to them. Where there are none nobody has the file open, and it can be read as it is.
        """
        path = self._path.resolve()  # its companions lie beside the file, and not beside a link to it
        with path.open("rb") as file:
            header = file.read(_READ_VERSION + 1)
        is_wal = len(header) > _READ_VERSION and header[_READ_VERSION] == _WAL
        is_open = path.with_name(f"{path.name}-shm").exists()
        how = "&readonly_shm=1" if is_open else "&immutable=1" if is_wal else ""
        # One slash at its start, of three: what stands after two is a host.
        return f"file:///{quote(str(path).lstrip('/'))}?mode=ro{how}"

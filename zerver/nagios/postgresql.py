"""PostgreSQL, asked as libpq asks: by a conninfo, or its own variables and files."""

import re
from collections.abc import Mapping
from typing import Any

from zerver.lib.printable import one_line
from zerver.nagios import sql
from zerver.nagios.database import MEND_TABLES, Database, Trouble, trouble_of
from zerver.nagios.deadline import Deadline
from zerver.nagios.errors import cannot_ask, is_down

_PARAMETER = re.compile(r":(\w+)")
#: How libpq words a login that it has, or lacks; at a connection there is no code that would tell.
_REFUSAL = re.compile(
    r"authentication|password|role .* does not exist|database .* does not exist|pg_hba", re.IGNORECASE
)
_MEND_LOGIN = "see --database, and ~/.pgpass or PGPASSFILE for the password"


class Postgresql(Database):
    def __init__(self, conninfo: str, *, host: str | None, port: int | None) -> None:
        self._conninfo = conninfo
        self._where = {name: value for name, value in (("host", host), ("port", port)) if value is not None}

    def trouble(self, since_seconds: float, deadline: Deadline) -> Trouble:
        deadline.waits_for("PostgreSQL")
        try:
            import psycopg
        except ImportError:
            raise cannot_ask(
                "psycopg is not installed", "install zerver[postgres], or name SQLite's file: --sqlite"
            ) from None
        try:
            return self._ask(psycopg, since_seconds, deadline)
        except psycopg.errors.QueryCanceled:
            raise is_down(
                f"PostgreSQL did not answer within {deadline.seconds:g} s", "see ./manage.py queue_check"
            ) from None
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise cannot_ask(f"PostgreSQL has other tables ({_told(error)})", MEND_TABLES) from None
        except psycopg.errors.InsufficientPrivilege as error:
            tables = "zerver_event, zerver_failed_event, zerver_suspect, zerver_paused_queue"
            mend = f"GRANT SELECT ON {tables}, zerver_task, zerver_schedule TO its user"
            raise cannot_ask(f"PostgreSQL does not let us look ({_told(error)})", mend) from None
        except psycopg.ProgrammingError:
            # Not quoted: of a conninfo that cannot be read, any part may be a password.
            raise cannot_ask(
                "--database is no conninfo", "write it like 'service=shop' or 'host=db dbname=shop'"
            ) from None
        except psycopg.Error as error:
            if _REFUSAL.search(str(error)):
                raise cannot_ask(f"PostgreSQL refuses the login ({_told(error)})", _MEND_LOGIN) from None
            raise is_down(
                f"PostgreSQL cannot be reached ({_told(error)})", "start it, or see --database"
            ) from None

    def _ask(self, psycopg: Any, since_seconds: float, deadline: Deadline) -> Trouble:
        connection = psycopg.connect(
            self._conninfo,
            **self._where,
            connect_timeout=max(2, int(deadline.seconds)),
            application_name="check-queue-worker-errors",
            prepare_threshold=None,  # a pooler may give each statement another connection
        )
        with connection, connection.cursor() as cursor:
            connection.read_only = True
            # Within the transaction, so that a pooler's next client does not inherit it.
            cursor.execute(f"SET LOCAL statement_timeout = {int(deadline.seconds * 1000)}")

            def ask(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
                cursor.execute(_PARAMETER.sub(r"%(\1)s", statement), parameters)
                return list(cursor.fetchall())

            [(now_ms,)] = ask(sql.NOW_POSTGRESQL, {})
            [(has_tasks,)] = ask(sql.HAS_TASKS_POSTGRESQL, {})
            [(has_schedules,)] = ask(sql.HAS_SCHEDULES_POSTGRESQL, {})
            return trouble_of(ask, now_ms, since_seconds, has_tasks=has_tasks, has_schedules=has_schedules)


def _told(error: Exception) -> str:
    """Its first line: libpq goes on with hints and places."""
    return one_line(ValueError(str(error).strip().split("\n")[0]))

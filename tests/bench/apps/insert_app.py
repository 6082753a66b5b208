"""The row that zerver stores for an event, stored by the database's driver alone: what nobody does without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import django

# Whoever imports this is no manage.py.
django.setup()


from django.db import connection  # noqa: E402

from zerver.lib import clock  # noqa: E402
from zerver.lib.event import encode_headers  # noqa: E402
from zerver.lib.event_table_sql import dialect_of, in_sqlite  # noqa: E402


class Publisher:
    """One by one alone."""

    def __init__(self) -> None:
        connection.ensure_connection()
        self._execute = connection.connection.execute
        dialect = dialect_of(connection)
        statement = dialect.insert(1, is_timed=False, is_leased=False, is_in_line=False) + dialect.telling
        self._statement = in_sqlite(statement) if connection.vendor == "sqlite" else statement
        self._common = ["bench_small", encode_headers({}), 1, None, 0, 0]
        self._body = b"x" * 150

    def publish(self, event: Mapping[str, Any]) -> None:
        self._execute(self._statement, [*self._common, clock.new_message_id(), self._body, 1])

"""What the tests of sealed bodies share: keys, a body with a secret in it, and what a thief would read."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import Fernet
from django.db import connection

from tests.contract.harness import event
from tests.integration.claims import QUEUE
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable

SECRET = "4111-1111"
BODY = f'{{"card":"{SECRET}"}}'.encode()
OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))


def stored(table: EventTable, **fields: Any) -> Event:
    one = event(QUEUE, body=BODY, **fields)
    table.store([one])
    return one


def kept() -> str:
    """Everything that stands in the tables, as a thief of the database would read it."""
    with connection.cursor() as cursor:
        rows = []
        for name in ("zerver_event", "zerver_failed_event", "zerver_task"):
            cursor.execute(f"SELECT * FROM {name}")
            rows += cursor.fetchall()
    return repr([bytes(value) if isinstance(value, memoryview) else value for row in rows for value in row])

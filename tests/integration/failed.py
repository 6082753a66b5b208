"""Failed events for tests of ``queue_failed``: filed, listed, and a database that fails on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connection

from tests.integration.commands import run
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import file_failed
from zerver.models import FailedEvent

DAY_MS = 86_400_000


def fail(
    queue: str = "noop",
    body: bytes = b'{"n":1}',
    *,
    error: str = "ValueError: no",
    days_ago: float = 0,
    message_id: str = "",
) -> str:
    """File a failed event; its message id."""
    event = Event(
        queue=queue,
        message_id=message_id or clock.new_message_id(),
        body=body,
        published_at_ms=clock.now_ms(),
        attempt=5,
        headers={"traceparent": "00-abc"},
    )
    file_failed(event, error=error, traceback="Traceback: here\n", worker="host:1", alias="default")
    if days_ago:
        at_ms = EventTable("default").now_ms() - int(days_ago * DAY_MS)
        FailedEvent.objects.filter(message_id=event.message_id).update(failed_at_ms=at_ms)
    return event.message_id


def listed(*arguments: str) -> list[str]:
    return [item["message_id"] for item in run("queue_failed", "list", "--json", *arguments).json["failed"]]


def states() -> dict[str, str]:
    return dict(FailedEvent.objects.values_list("message_id", "state"))


@contextmanager
def database_that_fails_at_row(number: int) -> Iterator[None]:
    """The statement that stores so many an event meets a server that has gone."""
    stored = 0

    def fail_there(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        nonlocal stored
        stored += "INSERT INTO zerver_event " in sql
        if stored == number:
            raise OperationalError("server closed the connection unexpectedly")
        return execute(sql, *rest)

    with connection.execute_wrapper(fail_there):
        yield

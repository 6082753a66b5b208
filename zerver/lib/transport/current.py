"""The transports of this process, opened when first asked for and closed together."""

import os
from collections.abc import Callable

from zerver.lib.conf import get_settings
from zerver.lib.event_table import EventTable
from zerver.lib.transport.base import Transport
from zerver.lib.transport.database import DatabaseTransport
from zerver.lib.transport.immediate import Consume, ImmediateTransport

#: By process id, for a fork shares sockets with its parent: what it inherited is not its to use, nor to close.
_open: dict[tuple[int, str], Transport] = {}
_consume: Consume | None = None


def consume_immediately_with(consume: Consume) -> None:
    """Who consumes in immediate mode: handed down by the composition root, since workers are above this room."""
    global _consume
    _consume = consume


def immediate() -> ImmediateTransport | None:
    """The tests' transport, when ``QUEUE_URL`` is ``immediate://``."""
    if get_settings().scheme != "immediate":
        return None
    transport = _get("immediate", lambda: ImmediateTransport(_consume))
    assert isinstance(transport, ImmediateTransport)  # noqa: S101 (narrows the type)
    return transport


def reset_immediate() -> None:
    """Between tests: what waits in immediate mode is forgotten, whatever ``QUEUE_URL`` is by now."""
    transport = _open.get((os.getpid(), "immediate"))
    if isinstance(transport, ImmediateTransport):
        transport.forget_all()


def fast_lane() -> Transport | None:
    """What carries events that are due now; None where there is the event table alone."""
    if not get_settings().has_broker:
        return None
    return _get("rabbitmq", _open_rabbitmq)


def table() -> EventTable:
    """The event table, in the database that ``QUEUE_DATABASE`` names."""
    return EventTable(get_settings().database)


def table_lane() -> Transport:
    """The event table as a transport."""
    return _get("database", lambda: DatabaseTransport(get_settings().database))


def worker_lanes() -> list[Transport]:
    """Every transport that a worker takes from, the fast lane first."""
    fast = fast_lane()
    return [table_lane()] if fast is None else [fast, table_lane()]


def close_all() -> None:
    """Give back connections and threads; the next use opens anew."""
    own = [key for key in _open if key[0] == os.getpid()]
    transports = [_open.pop(key) for key in own]
    for transport in transports:
        transport.close()


def _open_rabbitmq() -> Transport:
    # The driver is loaded by those alone who have a broker: it costs every other process memory and start-up time.
    from zerver.lib.transport.rabbitmq import open_transport

    return open_transport(get_settings())


def _get(name: str, open_it: Callable[[], Transport]) -> Transport:
    # Without a lock: one that is held while the process forks would be held in the child for ever. A transport opens
    # nothing before its first use, so whoever loses the race to be kept has cost nothing.
    key = (os.getpid(), name)
    transport = _open.get(key)
    return transport if transport is not None else _open.setdefault(key, open_it())

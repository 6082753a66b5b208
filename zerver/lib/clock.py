"""Time and identity, in one place that tests can move.

Everything that waits is measured by the database's clock (leases, due times) or by a monotonic clock
(deadlines); wall time in Python serves only for stamps that people read. ``offset_ms`` moves wall time and
the database's time together, so a test skips an hour without sleeping.
"""

import os
import struct
import threading
import time
import uuid
from datetime import UTC, datetime

#: Milliseconds added to the wall clock and to the database's clock alike; tests move it, nothing else does.
offset_ms: int = 0

_uuid7_lock = threading.Lock()
_uuid7_last = 0
#: Random numbers of 64 bits, fetched for many ids at once: the system call lets go of the interpreter, and other
#: threads take it. And whose they are: a server that forks in C, as uWSGI does, need not tell Python of it, and two
#: processes with the same numbers would make the same ids.
_random: list[int] = []
_random_pid = 0
_RANDOM = struct.Struct("128Q")


def _after_fork() -> None:
    """The lock may have been held by a thread that does not exist in the child, and would never be released there."""
    global _uuid7_lock
    _uuid7_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def now_ms() -> int:
    """Wall time. Units: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000 + offset_ms


def written(at_ms: int) -> str:
    """For people. Shape: ``2026-05-01 12:30:05Z``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


#: For deadlines within this process. Units: seconds. No function around it: an event asks for it a handful of times.
monotonic = time.monotonic


def new_message_id() -> str:
    """A fresh UUIDv7, ordered by creation within this process."""
    return new_message_ids(1)[0]


def new_message_ids(count: int) -> list[str]:
    """So many of them, in their order, in a third of the time.

    Source: RFC 9562 section 5.7 and 6.2 method 2 (the 12 bits after the version count within a millisecond).
    """
    global _uuid7_last, _random_pid
    with _uuid7_lock:
        first = max(now_ms() << 12, _uuid7_last + 1)
        _uuid7_last = first + count - 1
        pid = os.getpid()
        if pid != _random_pid:
            _random_pid = pid
            _random.clear()
        while len(_random) < count:
            _random.extend(_RANDOM.unpack(os.urandom(_RANDOM.size)))
        taken = [_random.pop() for _ in range(count)]
    return [_uuid7(first + number, random_bits) for number, random_bits in enumerate(taken)]


def _uuid7(stamp: int, random_bits: int) -> str:
    """As uuid.UUID writes it, in a third of the time.

    ``stamp``: 48 bits of milliseconds, 12 that count. ``random_bits``: 64, of which 62 are taken.
    """
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031 (an f-string takes half as long again)
        stamp >> 28,
        stamp >> 12 & 0xFFFF,
        stamp & 0xFFF,
        0x8000 | random_bits & 0x3FFF,
        random_bits >> 16,
    )


#: Events that others publish without a message id are named after queue and body within this namespace.
_FOREIGN_NAMESPACE = uuid.UUID("6b1f7a52-8a43-5ac5-9a53-6f4f2f6d3c10")


def foreign_message_id(queue: str, body: bytes) -> str:
    """UUIDv5 of queue and body: the same for every redelivery of an event that carries no id of its own.

    And for every other event that says the same: see ``Event.has_own_id``.
    """
    digest = uuid.uuid5(_FOREIGN_NAMESPACE, queue).bytes
    return str(uuid.uuid5(uuid.UUID(bytes=digest), body.decode("latin-1")))

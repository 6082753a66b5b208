"""Time and identity."""

import os
import threading
import time
import uuid

import pytest

from zerver.lib import clock


def test_message_ids_are_uuid_version_7_of_now() -> None:
    before_ms = time.time_ns() // 1_000_000
    identity = uuid.UUID(clock.new_message_id())
    assert identity.version == 7
    assert identity.variant == uuid.RFC_4122
    # Ahead of the clock by the milliseconds that ids made in a burst before it have used up.
    assert before_ms <= identity.int >> 80 <= before_ms + 1000


def test_message_ids_rise_even_within_a_millisecond() -> None:
    ids = [clock.new_message_id() for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("count", [0, 1, 100, 5_000])
def test_message_ids_that_are_made_together_are_as_others_and_rise_with_them(count: int) -> None:
    before, ids, after = clock.new_message_id(), clock.new_message_ids(count), clock.new_message_id()
    assert len(ids) == count
    assert [before, *ids, after] == sorted({before, *ids, after})
    for each in ids:
        identity = uuid.UUID(each)
        assert str(identity) == each
        assert (identity.version, identity.variant) == (7, uuid.RFC_4122)
    varying = [uuid.UUID(each).int & ((1 << 62) - 1) for each in ids]
    assert len(set(varying)) == count, "each has random bits of its own"


def test_message_ids_rise_though_the_clock_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_uuid7_last", 0)
    first = clock.new_message_id()
    monkeypatch.setattr(clock, "offset_ms", -3_600_000)
    assert clock.new_message_id() > first


def test_message_ids_of_many_threads_are_all_different() -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.extend([clock.new_message_id() for _ in range(500)]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 4000


def test_a_forked_child_makes_ids_though_its_parent_was_making_one() -> None:
    with clock._uuid7_lock:
        child = os.fork()
        if child == 0:
            clock.new_message_id()  # with the parent's lock it would wait for ever, and the test with it
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_and_its_parent_do_not_make_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they make them in the same millisecond, as the first after the same one."""
    clock.new_message_id()
    ours, theirs = os.pipe()
    monkeypatch.setattr(clock, "now_ms", lambda: 1)
    child = os.fork()
    if child == 0:
        os.write(theirs, clock.new_message_id().encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    id_of_child, id_of_parent = os.read(ours, 36).decode(), clock.new_message_id()
    os.close(ours)
    os.close(theirs)
    assert id_of_child[:18] == id_of_parent[:18]
    assert id_of_child[18:] != id_of_parent[18:]


def test_the_offset_moves_wall_time_and_not_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    wall_ms, monotonic = clock.now_ms(), clock.monotonic()
    monkeypatch.setattr(clock, "offset_ms", 3_600_000)
    assert 3_600_000 <= clock.now_ms() - wall_ms < 3_610_000
    assert clock.monotonic() - monotonic < 10


def test_a_foreign_event_is_named_by_its_queue_and_body() -> None:
    identity = clock.foreign_message_id("letters", b'{"a":1}')
    assert uuid.UUID(identity).version == 5
    assert identity == clock.foreign_message_id("letters", b'{"a":1}')
    assert identity != clock.foreign_message_id("parcels", b'{"a":1}')
    assert identity != clock.foreign_message_id("letters", b'{"a":2}')


def test_a_foreign_event_may_be_of_any_bytes() -> None:
    bodies = [b"", b"\x00", b"\xff\xfe", bytes(range(256))]
    assert len({clock.foreign_message_id("letters", body) for body in bodies}) == len(bodies)

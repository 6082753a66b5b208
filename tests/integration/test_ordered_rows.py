"""The rows of ordered queues: of each line one at a time, on both databases, however many take at once."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction
from msgspec.structs import replace

from tests.contract.harness import event
from tests.integration.claims import let_time_pass
from tests.integration.costs import cost, recorded
from tests.servers.databases import TestDatabase
from zerver.lib import clock, ordered_rows
from zerver.lib.event import Event, next_attempt
from zerver.lib.event_table import EventTable
from zerver.lib.ordered_rows import LINES_PER_LOOK, OrderedRows
from zerver.lib.registry import QueueDeclaration
from zerver.lib.resharding import move_rows
from zerver.lib.shard_keys import line_of
from zerver.lib.transport import ordered_lane
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.database import DatabaseTransport
from zerver.lib.transport.database_lane import DatabaseLane
from zerver.models import WaitingEvent

QUEUE = QueueDeclaration(name="claims", ordered=True, shard_key="key")
PLAIN = QueueDeclaration(name="claims")

ROWS_OF_ONE_LINE = 20_000


@pytest.fixture
def table(queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> EventTable:
    monkeypatch.setattr(clock, "offset_ms", clock.offset_ms)  # whatever a test makes of it, it is put back
    return EventTable("default")


@pytest.fixture
def lanes(table: EventTable) -> Iterator[Callable[..., DatabaseLane]]:
    """Opens them, as worker processes would."""
    opened: list[DatabaseLane] = []

    def open_lane(queue: QueueDeclaration = QUEUE) -> DatabaseLane:
        opened.append(DatabaseTransport("default").open_lane(queue, f"worker-{len(opened)}"))
        opened[-1].start(lambda: None)
        return opened[-1]

    yield open_lane
    for lane in opened:
        lane.close(5)


def keyed(number: int, key: str, queue: QueueDeclaration = QUEUE) -> Event:
    body = b'{"number":%d,"key":"%s"}' % (number, key.encode())
    return event(queue, number, body=body, line=queue.line(body))


def publish(table: EventTable, *keys: str, first: int = 0) -> list[Event]:
    """One event of each key given, in that order."""
    events = [keyed(number, key) for number, key in enumerate(keys, start=first)]
    table.store(events)
    return events


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [json.loads(each.event.body)["number"] for each in deliveries]


def begin(lane: DatabaseLane, limit: int = 100) -> list[Delivery]:
    taken = lane.take(limit)
    assert all(lane.renew(delivery, 10) for delivery in taken)
    return taken


# -- the first of each line


def test_of_each_key_the_first_is_taken_and_the_next_once_it_is_settled(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    lane, other = lanes(), lanes()
    publish(table, "a", "a", "b", "a", "b", "c")
    taken = begin(lane)
    assert sorted(numbers(taken)) == [0, 2, 5]
    assert other.take(100) == []

    lane.done(taken)

    rest = begin(other) or begin(lane)
    assert sorted(numbers(rest)) == [1, 4]


def test_who_settles_goes_on_with_the_next_of_the_key_at_once_and_by_one_statement(
    table: EventTable, lanes: Callable[..., DatabaseLane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_lane, "_ROUND_REST_SECONDS", (60.0, 60.0))
    lane = lanes()
    publish(table, *"aaaaaaaaaa")
    seen = []
    with recorded() as statements:
        for _ in range(10):
            [delivery] = begin(lane)
            seen += numbers([delivery])
            lane.done([delivery])
    assert seen == list(range(10))
    # Rows without a line are looked for, then lines, and the first is claimed; after that, settle and claim.
    assert len(statements) == 3 + 10 + 9
    assert lane.take(100) == []


def test_a_retry_holds_its_key_and_no_other_and_keeps_its_place(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    lane = lanes()
    publish(table, "a", "a", "b", "b")
    first, other = sorted(begin(lane), key=lambda each: each.token.claim.row_id)
    assert lane.retry(first, 60)
    lane.done([other])
    [b] = begin(lane)
    assert numbers([b]) == [3]
    lane.done([b])
    assert lane.take(100) == []

    let_time_pass(61)
    lane._look_now()
    [again] = begin(lane)
    assert (numbers([again]), again.event.attempt, again.redelivered) == ([0], 2, False)
    assert again.event.message_id == first.event.message_id
    lane.done([again])
    assert numbers(begin(lane)) == [1]


def test_a_retry_that_is_settled_once_more_is_neither_lost_nor_put_off(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    """An error after it may have the whole settling repeated."""
    lane = lanes()
    publish(table, "a")
    [delivery] = begin(lane)
    assert lane.retry(delivery, 0)
    assert lane.retry(delivery, 3600)
    [again] = begin(lane)
    assert again.event.attempt == 2
    assert WaitingEvent.objects.count() == 1


def test_a_retry_of_what_was_handed_back_meanwhile_loses_nothing(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    publish(table, "a")
    lane = lanes()
    [delivery] = begin(lane)
    lane.release([delivery])  # since the process ends, though its handler has not
    assert lane.retry(delivery, 60)
    lane.flush()
    [again] = begin(lanes())
    assert (numbers([again]), again.event.attempt) == ([0], 1)


def test_a_retry_that_is_there_already_stays_as_it_is(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    lane = lanes()
    [published] = publish(table, "a")
    [delivery] = begin(lane)
    table.store([next_attempt(published)])
    assert lane.retry(delivery, 3600)
    [again] = begin(lane)
    assert again.event.attempt == 2
    assert WaitingEvent.objects.count() == 1


def test_what_the_dead_had_begun_comes_first_though_an_earlier_one_was_committed_since(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    lane, other = lanes(), lanes()
    publish(table, "a")
    begin(lane)
    WaitingEvent.objects.update(id=1000)
    published = keyed(5, "a")
    table.store([published])
    WaitingEvent.objects.filter(message_id=published.message_id).update(id=1)  # a long transaction's
    assert other.take(100) == []

    let_time_pass(600)
    other._look_now()
    [taken] = begin(other)
    assert (numbers([taken]), taken.redelivered) == ([0], True)
    other.done([taken])
    assert numbers(begin(other)) == [5]


@pytest.mark.parametrize("queue_database", ["postgres"], indirect=True)
def test_an_event_whose_transaction_took_longer_waits_for_what_was_begun_meanwhile(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    """It has a lower id than the one that has begun, and must not run beside it."""
    lane, other = lanes(), lanes()
    late = keyed(1, "a")
    with ThreadPoolExecutor(1) as aside, ExitStack() as open_transaction:

        def store_and_stay() -> None:
            open_transaction.enter_context(transaction.atomic())
            table.store([late])

        def commit() -> None:
            open_transaction.close()
            connections.close_all()

        aside.submit(store_and_stay).result(30)
        publish(table, "a", first=2)
        [begun] = begin(lane)
        aside.submit(commit).result(30)
    assert numbers([begun]) == [2]
    other._look_now()
    assert other.take(100) == []
    lane.done([begun])
    assert numbers(begin(lane)) == [1]


def test_the_database_refuses_to_have_two_of_a_line_begun(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    """Whoever looked before another had begun an earlier one, and claims after it."""
    publish(table, "a", "a", "b")
    rows = OrderedRows("default", QUEUE)
    look = rows.look(100, None)
    assert rows.claim(look.ids, 60, "worker")
    second, *_ = WaitingEvent.objects.filter(lease_owner="").values_list("id", flat=True)
    with pytest.raises(IntegrityError):
        WaitingEvent.objects.filter(id=second).update(lease_owner="other")
    assert rows.claim([second], 60, "other") == []

    publish(table, "c", first=3)
    claimed = rows.claim([second, *rows.look(100, None).ids], 60, "other")
    assert [claim.event.body[:11] for claim in claimed] == [b'{"number":3']


def test_each_line_has_its_turn_though_few_are_taken_at_once(
    table: EventTable, lanes: Callable[..., DatabaseLane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_lane, "_ROUND_REST_SECONDS", (0.0, 0.0))  # as if it were time for all
    lane = lanes()
    publish(table, *(list("abcdef") * 3))
    seen = []
    for _ in range(12):
        [delivery] = begin(lane, 1)
        seen.append(numbers([delivery])[0] % 6)
        lane.done([delivery])
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_many_lines_that_are_held_hide_none_that_is_free(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    count = LINES_PER_LOOK + 50
    table.store([keyed(number, f"k{number}") for number in range(count)], delay_seconds=60)
    free = [f"free{number}" for number in range(5)]
    publish(table, *free)
    lane = lanes()
    seen = [number for _ in range(6) for number in numbers(begin(lane, 1))]
    assert sorted(seen) == list(range(5))


def test_rows_under_a_key_that_is_missing_hold_their_line(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    publish(table, "a", "b", "b", "b", "c")
    a, _, b, *_ = WaitingEvent.objects.order_by("id")
    WaitingEvent.objects.filter(id__in=[a.id, b.id]).update(sealed_with="gone")
    lane = lanes()
    taken = begin(lane)
    assert sorted(numbers(taken)) == [1, 4]
    lane.done(taken)
    assert lane.take(100) == []


# -- rows without a line, and queues that were or are no longer ordered


def test_rows_of_before_the_queue_was_ordered_come_first_and_in_their_old_order(
    table: EventTable, lanes: Callable[..., DatabaseLane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_rows, "_STRAYS_PER_STATEMENT", 3)
    old = [replace(keyed(number, "a"), line=None) for number in range(10)]
    table.store(old)
    table.store([event(PLAIN, body=b'{"number":900}'), event(PLAIN, body=b'{"number":901}')])
    table.store([replace(keyed(999, "a"), line=None)], delay_seconds=60)
    publish(table, "a", first=10)
    lane = lanes()
    seen: list[int] = []
    while taken := begin(lane):
        seen += numbers(taken)
        lane.done(taken)
    assert [number for number in seen if number < 900] == list(range(11))
    assert [number for number in seen if number >= 900] == [900, 901]  # in one line, for they have no key
    # What is due later holds up nobody, and comes when it is due.
    let_time_pass(61)
    assert numbers(begin(lanes())) == [999]


def test_what_a_worker_without_order_had_begun_when_it_died_is_told_as_suspect_and_comes_in_order(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    old = [replace(keyed(number, "a"), line=None) for number in range(2)]
    table.store(old)
    dead = lanes(PLAIN)
    assert len(begin(dead)) == 2
    let_time_pass(600)
    lane = lanes()
    [first] = begin(lane)
    assert (numbers([first]), first.redelivered) == ([0], True)
    lane.done([first])
    [second] = begin(lane)
    assert (numbers([second]), second.redelivered) == ([1], True)


def test_a_queue_that_is_no_longer_ordered_gives_all_that_it_has(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    publish(table, "a", "a", "a", "b")
    held = begin(lanes(), 1)
    assert len(held) == 1
    lane = lanes(PLAIN)
    taken = begin(lane)
    assert len(taken) == 3
    lane.release(taken)
    let_time_pass(600)
    lane._look_now()
    assert sorted(numbers(begin(lane))) == [0, 1, 2, 3]


def test_what_two_dead_had_begun_of_one_key_on_two_shards_comes_together(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    other = QueueDeclaration(name="claims_other", ordered=True, shard_key="key")
    for number, queue in enumerate((QUEUE, other)):
        table.store([keyed(number, "a", queue)])
        assert len(begin(lanes(queue))) == 1
    let_time_pass(600)
    moved = move_rows("default", [QUEUE.name, other.name], lambda *_: other.name, lambda _: None)
    assert moved[QUEUE.name].count == 1
    lane, seen = lanes(other), []
    while taken := begin(lane):
        seen += [(*numbers([delivery]), delivery.redelivered) for delivery in taken]
        lane.done(taken)
    assert sorted(seen) == [(0, True), (1, True)]


def test_a_version_that_knows_no_order_may_come_back_once_the_index_is_dropped_and_go_again(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    publish(table, "a", "a", "b")
    call_command("migrate", "zerver", "0008", verbosity=0)
    # As it claims: it knows of no lines, and leaves them.
    WaitingEvent.objects.update(lease_owner="before")
    call_command("migrate", "zerver", verbosity=0)
    lane, seen = lanes(), []
    while taken := begin(lane):
        seen += numbers(taken)
        lane.done(taken)
    assert sorted(seen) == [0, 1, 2]
    assert seen.index(0) < seen.index(1)


# -- costs


def fill_line(vendor: str, line: int) -> None:
    """Rows of one line, all of them due."""
    numbers = f"generate_series(1, {ROWS_OF_ONE_LINE}) AS numbers(n)"
    if vendor == "sqlite":
        steps = f"SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS_OF_ONE_LINE}"
        numbers = f"(WITH RECURSIVE numbers(n) AS ({steps}) SELECT n FROM numbers) AS numbers"
    body, no = ("'\\x7b7d'::bytea", "false") if vendor == "postgresql" else ("X'7b7d'", "0")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO zerver_event (message_id, queue, body, headers, attempt, published_at_ms, due_at_ms,"
            " available_at_ms, lease, lease_owner, redelivered, line)"
            f" SELECT 'line-' || n, %s, {body}, '{{}}', 1, 1, 1, 1, 0, '', {no}, %s FROM {numbers}",
            [QUEUE.name, line],
        )
        cursor.execute("ANALYZE")


def test_what_stands_behind_the_first_of_a_line_costs_nothing(
    table: EventTable, queue_database: TestDatabase
) -> None:
    rows = OrderedRows("default", QUEUE)
    publish(table, *(["a", "b"] * 5))

    def costs() -> list[int]:
        with recorded() as statements:
            claims = rows.claim(rows.look(100, None).ids, 60, "worker")
            assert rows.retry(claims[0], 0)
            assert table.delete(claims[1:]) == 1
            again = rows.claim_first([line_of("a")], 60, "worker")
            assert table.release(again) == 1
        return [cost(queue_database.vendor, statement) for statement in statements]

    before = costs()
    fill_line(queue_database.vendor, line_of("a"))
    after = costs()

    assert len(before) == len(after) == 6
    assert all(now <= 2 * then + 100 for now, then in zip(after, before, strict=True)), (before, after)


# -- many at once


class Arena:
    """Notes what lanes do at once, and finds two of a key, or one that came too early."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._done: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.count = 0
        self.faults: list[str] = []

    def enter(self, key: str, publisher: int, number: int) -> None:
        with self._lock:
            if key in self._running:
                self.faults.append(f"two of {key} at once")
            self._running.add(key)
            if number != self._done[key, publisher]:
                self.faults.append(f"{number} of {key} before {self._done[key, publisher]}")

    def leave(self, key: str, publisher: int, *, is_done: bool) -> None:
        with self._lock:
            self._running.discard(key)
            if is_done:
                self._done[key, publisher] += 1
                self.count += 1


def publish_alone(publisher: int, keys: str, count: int) -> None:
    """Each key's events one after the other; a transaction that is open for a moment has lower ids than others."""
    chance = random.Random(publisher)
    table = EventTable("default")
    for number in range(count):
        order = list(keys)
        chance.shuffle(order)
        body = b'{"publisher":%d,"number":%d,"key":"%s"}'
        events = [
            event(QUEUE, body=body % (publisher, number, key.encode()), line=line_of(key)) for key in order
        ]
        with transaction.atomic():
            for each in events:
                table.store([each])
    connections.close_all()


def work_alone(lane: DatabaseLane, arena: Arena, seed: int, total: int) -> None:
    """Settle whatever comes, one by one, in any of the ways that there are, until all are done."""
    chance = random.Random(seed)
    until = clock.monotonic() + 30
    while arena.count < total and not arena.faults and clock.monotonic() < until:
        lane._look_now()
        for delivery in lane.take(chance.choice((1, 3, 100))):
            assert lane.renew(delivery, 10)
            body = json.loads(delivery.event.body)
            key, publisher = body["key"], body["publisher"]
            way = chance.choices(("done", "retry", "release"), (8, 1, 1))[0]
            arena.enter(key, publisher, body["number"])
            EventTable("default").now_ms()  # what a handler would do
            arena.leave(key, publisher, is_done=way == "done")
            if way == "done":
                lane.done([delivery])
            elif way == "retry":
                assert lane.retry(delivery, 0)
            else:
                lane.release([delivery])
    lane.flush()
    connections.close_all()


def test_many_at_once_keep_the_order_of_each_key_and_never_have_two_of_one(
    table: EventTable, lanes: Callable[..., DatabaseLane]
) -> None:
    arena, keys, count, publishers = Arena(), "abcde", 12, 2
    total = len(keys) * count * publishers
    with ThreadPoolExecutor(6) as pool:
        publishing = [pool.submit(publish_alone, number, keys, count) for number in range(publishers)]
        working = [pool.submit(work_alone, lanes(), arena, seed, total) for seed in range(4)]
        for future in publishing + working:
            future.result(60)
    assert arena.faults == []
    assert arena.count == total
    assert WaitingEvent.objects.count() == 0

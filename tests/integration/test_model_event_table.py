"""The event table and settling against a model of them: whatever the order of steps, the table is as the model says.

Time moves in steps that are long beside what a step takes, so the model knows every lease and due time. One publisher
keeps a transaction open from step to step, while others publish, claim and settle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from django.db import connections, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.servers.databases import TestDatabase
from zerver.lib import clock
from zerver.lib.errors import TransportUnavailable
from zerver.lib.event import Event, next_attempt
from zerver.lib.event_table import Claim, EventTable, Key, TableDepth, key
from zerver.lib.transport.base import Delivery, Lane, Unbegun
from zerver.models import FailedEvent, Suspect, WaitingEvent
from zerver.worker.outcomes import Dead, Discard, Done, Outcome, Release, Retry
from zerver.worker.settle import Settler

QUEUE = "parcels"
OWNERS = ("worker-1", "worker-2")
LEASE_SECONDS = 60
#: A step takes less, so that what the table says can be told from a step of time.
TOLERANCE_SECONDS = 25
#: What a run must come to, in all its examples together, or it would be green and have tried nothing. A run comes to
#: several times as much.
AT_LEAST = {
    **{
        f"{outcome} by {holder}": 2
        for outcome in ("Done", "Discard", "Retry", "Dead", "Release")
        for holder in ("its holder", "a process that dies", "somebody else")
    },
    "committed": 3,
    "rolled back": 3,
    "step beside an open transaction": 5,
}
AT_LEAST_SQLITE = {"waited for the transaction in vain": 3}
AT_LEAST_POSTGRESQL = {"committed after a claim beside it": 3, "rolled back after a claim beside it": 3}


@dataclass
class Row:
    """What the table should hold. Units: model seconds."""

    due: int
    available: int
    lease: int = 0
    owner: str = ""
    redelivered: bool = False


@dataclass(eq=False)
class DirectLane(Lane):
    """The table's lane without its window of acknowledgements: done is deleted, or, if the process dies before, not."""

    table: EventTable
    dies: bool = False
    done_count: int = field(default=0)

    def start(self, wake: Callable[[], None]) -> None:
        """Nothing to begin."""

    def take(self, limit: int) -> list[Delivery]:
        return []

    def done(self, deliveries: Sequence[Delivery]) -> None:
        if not self.dies:
            self.done_count += self.table.delete([delivery.token for delivery in deliveries])

    def release(self, deliveries: Sequence[Delivery]) -> None:
        if not self.dies:
            self.table.release([delivery.token for delivery in deliveries])

    def renew(self, delivery: Delivery, seconds: float) -> bool:
        return self.table.renew(delivery.token, seconds)

    def unbegun(self) -> Unbegun:
        return Unbegun()

    def flush(self) -> None:
        """Nothing is held."""

    def pause(self) -> None:
        """It fetches nothing by itself."""

    def resume(self) -> None:
        """See ``pause``."""

    def close(self, timeout_seconds: float) -> bool:
        """Nothing to end."""
        return True


class Committer:
    """A publisher in a thread of its own, and so on a connection of its own, whose transaction outlives steps."""

    def __init__(self, table: EventTable, thread: ThreadPoolExecutor) -> None:
        self._table = table
        self._thread = thread
        self._transaction = transaction.atomic()

    def begin(self) -> None:
        self._transaction = transaction.atomic()
        self._thread.submit(self._transaction.__enter__).result()

    def store(self, events: Sequence[Event], delay_seconds: int, lease_seconds: int) -> None:
        self._thread.submit(
            self._table.store, events, delay_seconds=delay_seconds, lease_seconds=lease_seconds
        ).result()

    def end(self, *, commits: bool) -> None:
        self._thread.submit(self._end, commits).result()

    def _end(self, commits: bool) -> None:
        if not commits:
            transaction.set_rollback(True)
        self._transaction.__exit__(None, None, None)


@contextmanager
def committer(table: EventTable) -> Iterator[Committer]:
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield Committer(table, thread)
        thread.submit(connections.close_all).result()


EVERY_OUTCOME: Sequence[Outcome] = (
    Done(),
    Discard("not wanted"),
    Retry(1000.0, "not yet"),
    Retry(0.0, "again"),
    Dead("given up"),
    Release(),
)
OUTCOMES = st.sampled_from(EVERY_OUTCOME)


class TableMachine(RuleBasedStateMachine):
    """Two workers, two publishers and a sweeper at one queue."""

    #: Set by the test.
    table: ClassVar[EventTable]
    committer: ClassVar[Committer]
    has_one_writer: ClassVar[bool]
    #: What has happened so far, in all examples.
    reached: ClassVar[Counter[str]] = Counter()

    events = Bundle("events")
    claims = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        WaitingEvent.objects.all().delete()
        FailedEvent.objects.all().delete()
        Suspect.objects.all().delete()
        clock.offset_ms = 0
        self.base_ms = self.table.now_ms()
        self.now = 0
        self.rows: dict[Key, Row] = {}
        #: Everything that was ever committed, whatever became of it.
        self.accepted: set[str] = set()
        #: Ids that may be gone: done, discarded, purged, or confirmed by the broker.
        self.gone: set[str] = set()
        self.failed: set[Key] = set()
        self.settler = Settler(QUEUE, "default", "host:1")
        self.claims_made: list[Claim] = []
        #: What the open transaction has published; None while there is none.
        self.uncommitted: dict[Key, Row] | None = None
        self.claimed_meanwhile = False
        #: Transactions.
        self.ended = 0

    # -- publishing

    @rule(
        target=events,
        count=st.integers(1, 3),
        delay=st.sampled_from([0, 0, 100, 1000]),
        lease=st.sampled_from([0, 0, LEASE_SECONDS]),
    )
    def publish(self, count: int, delay: int, lease: int) -> Any:
        self._take_turn()
        events = [self._event() for _ in range(count)]
        self.table.store(events, delay_seconds=delay, lease_seconds=lease)
        for event in events:
            due = self.now + delay
            self.rows[key(event)] = Row(due=due, available=max(due, self.now + lease))
            self.accepted.add(event.message_id)
        return multiple(*events)

    @rule(count=st.integers(1, 200))
    def publish_and_roll_back(self, count: int) -> None:
        self._take_turn()
        with transaction.atomic():
            self.table.store([self._event() for _ in range(count)])
            transaction.set_rollback(True)

    @rule(
        target=events,
        count=st.integers(1, 3),
        delay=st.sampled_from([0, 0, 100, 1000]),
        lease=st.sampled_from([0, 0, LEASE_SECONDS]),
    )
    def publish_uncommitted(self, count: int, delay: int, lease: int) -> Any:
        """In a transaction that is open already, or is opened and left so: nobody sees it, nor can touch it."""
        if self.uncommitted is None:
            self.committer.begin()
            self.uncommitted, self.claimed_meanwhile = {}, False
        events = [self._event() for _ in range(count)]
        self.committer.store(events, delay, lease)
        for event in events:
            due = self.now + delay
            self.uncommitted[key(event)] = Row(due=due, available=max(due, self.now + lease))
        return multiple(*events)

    @precondition(lambda self: self.uncommitted is not None)
    @rule(commits=st.booleans())
    def end_transaction(self, commits: bool) -> None:
        self._end_transaction(commits=commits)

    @rule(owner=st.sampled_from(OWNERS), commits=st.booleans())
    def publish_and_claim_beside_a_transaction(self, owner: str, commits: bool) -> None:
        """On SQLite, which has one writer, who comes second is told so, and has stored nothing."""
        self.publish_uncommitted(1, delay=0, lease=0)
        if self.has_one_writer:
            with pytest.raises(TransportUnavailable):
                self.table.store([self._event()], timeout_seconds=0.01)
            self.reached["waited for the transaction in vain"] += 1
        else:
            self.publish(1, delay=0, lease=0)
            self._claim(owner, 1)
        self._end_transaction(commits=commits)

    @rule(event=events)
    def publish_again(self, event: Event) -> None:
        """As a publisher in doubt does: what is there stays as it is."""
        self._take_turn(event)
        self.table.store([event])
        self.rows.setdefault(key(event), Row(due=self.now, available=self.now))

    @rule(event=events)
    def confirm_late(self, event: Event) -> None:
        """The broker has it: the row goes, unless a worker has claimed it."""
        self._take_turn()
        expected = self._unclaimed(event)
        assert self.table.forget([key(event)]) == expected
        if expected:
            del self.rows[key(event)]
            self.gone.add(event.message_id)

    @rule(event=events)
    def free(self, event: Event) -> None:
        self._take_turn()
        expected = self._unclaimed(event)
        assert self.table.free([key(event)]) == expected
        if expected:
            row = self.rows[key(event)]
            row.available = row.due

    @rule(event=events)
    def hold(self, event: Event) -> None:
        self._take_turn()
        expected = self._unclaimed(event)
        assert self.table.hold([key(event)], LEASE_SECONDS) == ({key(event)} if expected else set())
        if expected:
            row = self.rows[key(event)]
            row.available = max(row.available, self.now + LEASE_SECONDS)

    # -- workers

    @rule(target=claims, owner=st.sampled_from(OWNERS), limit=st.integers(1, 4))
    def claim(self, owner: str, limit: int) -> Any:
        return multiple(*self._claim(owner, limit))

    @rule(target=claims, owner=st.sampled_from(OWNERS), count=st.integers(1, 3))
    def publish_and_claim(self, owner: str, count: int) -> Any:
        self.publish(count, delay=0, lease=0)
        return multiple(*self._claim(owner, count))

    def _claim(self, owner: str, limit: int) -> list[Claim]:
        self._take_turn()
        due = {each: row.available for each, row in self.rows.items() if row.available <= self.now}
        claims = self.table.claim(QUEUE, limit, LEASE_SECONDS, owner)
        taken = {key(claim.event) for claim in claims}
        assert len(taken) == len(claims) == min(limit, len(due))
        assert taken <= due.keys()
        left = [available for each, available in due.items() if each not in taken]
        assert not left or not taken or min(left) >= max(due[each] for each in taken)
        for claim in claims:
            row = self.rows[key(claim.event)]
            row.lease += 1
            row.redelivered = row.redelivered or row.owner != ""
            row.owner, row.available = owner, self.now + LEASE_SECONDS
            assert (claim.lease, claim.redelivered) == (row.lease, row.redelivered)
        self.claims_made += claims
        if claims and self.uncommitted:
            self.claimed_meanwhile = True
        return claims

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        self._take_turn()
        row = self._held(claim)
        expected = row is not None and row.owner != ""
        assert self.table.renew(claim, LEASE_SECONDS) == expected
        if row is not None and expected:
            row.available = max(row.available, self.now + LEASE_SECONDS)

    @rule(claim=claims, outcome=OUTCOMES, dies=st.booleans())
    def settle(self, claim: Claim, outcome: Outcome, dies: bool) -> None:
        """Whoever holds it by now; it may have been settled before."""
        self._settle([(claim, outcome)], dies=dies)

    @rule(outcomes=st.lists(OUTCOMES, min_size=1, max_size=4), dies=st.sampled_from([False, False, True]))
    def settle_held(self, outcomes: list[Outcome], dies: bool) -> None:
        """A handful at once, in the order claimed."""
        self._settle(list(zip(self._held_claims(), outcomes, strict=False)), dies=dies)

    @rule(outcomes=st.permutations(EVERY_OUTCOME), dies=st.booleans())
    def publish_claim_and_settle(self, outcomes: list[Outcome], dies: bool) -> None:
        self.publish(len(outcomes), delay=0, lease=0)
        claims = self._claim(OWNERS[0], len(outcomes))
        self._settle(list(zip(claims, outcomes, strict=True)), dies=dies)

    @rule(outcomes=st.permutations(EVERY_OUTCOME))
    def settle_what_somebody_else_has_by_now(self, outcomes: list[Outcome]) -> None:
        self.publish(len(outcomes), delay=0, lease=0)
        claims = self._claim(OWNERS[0], len(outcomes))
        self.let_time_pass(LEASE_SECONDS + TOLERANCE_SECONDS)
        self._claim(OWNERS[1], len(self.rows))
        self._settle(list(zip(claims, outcomes, strict=True)), dies=False)

    def _settle(self, settled: list[tuple[Claim, Outcome]], *, dies: bool) -> None:
        """The process may die between what it keeps and the acknowledgement."""
        self._take_turn()
        lane = DirectLane(self.table, dies=dies)
        self.settler.settle([(_delivery(claim, lane), outcome) for claim, outcome in settled])
        done_count = 0
        for claim, outcome in settled:
            done_count += self._note_settled(claim, outcome, dies=dies)
        assert lane.done_count == done_count

    def _note_settled(self, claim: Claim, outcome: Outcome, *, dies: bool) -> bool:
        """Whether a row is done with."""
        row = self._held(claim)
        holder = "somebody else" if row is None else "a process that dies" if dies else "its holder"
        self.reached[f"{type(outcome).__name__} by {holder}"] += 1
        if isinstance(outcome, Retry):
            due = self.now + int(outcome.after_seconds)
            self.rows.setdefault(key(next_attempt(claim.event)), Row(due=due, available=due))
        if isinstance(outcome, Dead):
            self.failed.add(key(claim.event))
        if dies or row is None:
            return False
        if isinstance(outcome, Release):
            row.available, row.owner = row.due, ""
            return False
        del self.rows[key(claim.event)]
        if isinstance(outcome, Done | Discard):
            self.gone.add(claim.event.message_id)
        return True

    @rule(owner=st.sampled_from(OWNERS))
    def sweep(self, owner: str) -> None:
        """The worker process is taken for dead; it may live, and go on with what it holds."""
        self._take_turn()
        owned = [row for row in self.rows.values() if row.owner == owner]
        assert self.table.release_owned([owner]) == len(owned)
        for row in owned:
            row.available = row.due

    # -- the operator, and time

    @rule()
    def purge(self) -> None:
        self._take_turn()
        free = {each: row for each, row in self.rows.items() if not self._is_held(row)}
        assert self.table.purge(QUEUE) == len(free)
        for queue, message_id, attempt in free:
            del self.rows[queue, message_id, attempt]
            self.gone.add(message_id)

    @rule(seconds=st.sampled_from([30, 100, 5000]))
    def let_time_pass(self, seconds: int) -> None:
        clock.offset_ms += seconds * 1000
        self.now += seconds

    # -- what holds after every step

    @invariant()
    def the_table_holds_what_the_model_says(self) -> None:
        if not hasattr(self, "rows"):
            return
        seen = {
            (row.queue, row.message_id, row.attempt): row for row in WaitingEvent.objects.filter(queue=QUEUE)
        }
        assert seen.keys() == self.rows.keys()
        self.reached["step beside an open transaction"] += self.uncommitted is not None
        for each, row in self.rows.items():
            stored = seen[each]
            assert (stored.lease, stored.lease_owner, stored.redelivered) == (
                row.lease,
                row.owner,
                row.redelivered,
            )
            for at_ms, expected in ((stored.due_at_ms, row.due), (stored.available_at_ms, row.available)):
                assert abs((at_ms - self.base_ms) / 1000 - expected) < TOLERANCE_SECONDS

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "rows"):
            return
        kept = {message_id for _, message_id, _ in self.rows} | {
            message_id for _, message_id, _ in self.failed
        }
        assert self.accepted <= kept | self.gone

    @invariant()
    def what_is_dead_is_filed_once(self) -> None:
        if not hasattr(self, "rows"):
            return
        filed = list(FailedEvent.objects.values_list("queue", "message_id", "attempt"))
        assert sorted(filed) == sorted(self.failed)

    @invariant()
    def depths_add_up(self) -> None:
        if not hasattr(self, "rows"):
            return
        ready = sum(row.available <= self.now for row in self.rows.values())
        held = sum(self._is_held(row) for row in self.rows.values())
        depth = self.table.depth(QUEUE)
        assert replace(depth, oldest_ms=None) == TableDepth(
            ready=ready, held=held, later=len(self.rows) - ready - held
        )

    # -- what the model knows

    def _event(self) -> Event:
        return Event(
            queue=QUEUE, message_id=clock.new_message_id(), body=b'{"n":1}', published_at_ms=clock.now_ms()
        )

    def _take_turn(self, event: Event | None = None) -> None:
        """Before writing: what would have to wait for the open transaction comes after it.

        On SQLite that is all that writes, and on PostgreSQL what stores an event that the transaction has stored. Every
        other one is rolled back: seldom does a rule by itself come to end it.
        """
        if self.uncommitted is not None and (
            self.has_one_writer or (event is not None and key(event) in self.uncommitted)
        ):
            self._end_transaction(commits=(self.ended + len(self.rows)) % 2 == 0)

    def _end_transaction(self, *, commits: bool) -> None:
        assert self.uncommitted is not None
        self.committer.end(commits=commits)
        if commits:
            self.rows |= self.uncommitted
            self.accepted |= {message_id for _, message_id, _ in self.uncommitted}
        self.uncommitted = None
        self.ended += 1
        verb = "committed" if commits else "rolled back"
        self.reached[verb] += 1
        self.reached[f"{verb} after a claim beside it"] += self.claimed_meanwhile

    def teardown(self) -> None:
        if getattr(self, "uncommitted", None) is not None:
            self.committer.end(commits=False)

    def _unclaimed(self, event: Event) -> bool:
        row = self.rows.get(key(event))
        return row is not None and row.owner == ""

    def _held(self, claim: Claim) -> Row | None:
        """The row, if the claim still holds it: nobody else has claimed it since."""
        row = self.rows.get(key(claim.event))
        return row if row is not None and row.lease == claim.lease else None

    def _held_claims(self) -> list[Claim]:
        return [claim for claim in self.claims_made if (row := self._held(claim)) is not None and row.owner]

    def _is_held(self, row: Row) -> bool:
        return row.available > self.now and (row.owner != "" or row.available > row.due)


def _delivery(claim: Claim, lane: Lane) -> Delivery:
    return Delivery(event=claim.event, lane=lane, token=claim, redelivered=claim.redelivered, received_at=0.0)


@pytest.mark.timeout(300)
def test_the_event_table_does_what_its_model_does(
    queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the machine makes of it
    TableMachine.table = table = EventTable("default")
    TableMachine.has_one_writer = queue_database.vendor == "sqlite"
    TableMachine.reached.clear()
    expected = AT_LEAST | (AT_LEAST_SQLITE if TableMachine.has_one_writer else AT_LEAST_POSTGRESQL)
    missed: set[str] = set()
    for _ in range(6):  # by chance one run may try little of something
        with committer(table) as TableMachine.committer:
            run_state_machine_as_test(
                TableMachine,
                settings=settings(
                    max_examples=40,
                    stateful_step_count=22,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        missed = {what for what, count in expected.items() if TableMachine.reached[what] < count}
        if not missed:
            break
    assert not missed

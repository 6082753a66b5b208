"""The event table and settling against a model of them: whatever the order of steps, the table is as the model says.

Time moves in steps that are long beside what a step takes, so the model knows every lease and due time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.servers.databases import TestDatabase
from zerver.lib import clock
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

    def close(self, timeout_seconds: float) -> None:
        """Nothing to end."""


OUTCOMES = st.sampled_from(
    [
        Done(),
        Discard("not wanted"),
        Retry(1000.0, "not yet"),
        Retry(0.0, "again"),
        Dead("given up"),
        Release(),
    ]
)


class TableMachine(RuleBasedStateMachine):
    """Two workers, a publisher and a sweeper at one queue."""

    #: Set by the test.
    table: ClassVar[EventTable]

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
        self.settler = Settler("default", "host:1")

    # -- publishing

    @rule(
        target=events,
        count=st.integers(1, 3),
        delay=st.sampled_from([0, 0, 100, 1000]),
        lease=st.sampled_from([0, 0, LEASE_SECONDS]),
    )
    def publish(self, count: int, delay: int, lease: int) -> Any:
        events = [self._event() for _ in range(count)]
        self.table.store(events, delay_seconds=delay, lease_seconds=lease)
        for event in events:
            due = self.now + delay
            self.rows[key(event)] = Row(due=due, available=max(due, self.now + lease))
            self.accepted.add(event.message_id)
        return multiple(*events)

    @rule(count=st.integers(1, 200))
    def publish_and_roll_back(self, count: int) -> None:
        with transaction.atomic():
            self.table.store([self._event() for _ in range(count)])
            transaction.set_rollback(True)

    @rule(event=events)
    def publish_again(self, event: Event) -> None:
        """As a publisher in doubt does: what is there stays as it is."""
        self.table.store([event])
        self.rows.setdefault(key(event), Row(due=self.now, available=self.now))

    @rule(event=events)
    def confirm_late(self, event: Event) -> None:
        """The broker has it: the row goes, unless a worker has claimed it."""
        expected = self._unclaimed(event)
        assert self.table.forget([key(event)]) == expected
        if expected:
            del self.rows[key(event)]
            self.gone.add(event.message_id)

    @rule(event=events)
    def free(self, event: Event) -> None:
        expected = self._unclaimed(event)
        assert self.table.free([key(event)]) == expected
        if expected:
            row = self.rows[key(event)]
            row.available = row.due

    @rule(event=events)
    def hold(self, event: Event) -> None:
        expected = self._unclaimed(event)
        assert self.table.hold([key(event)], LEASE_SECONDS) == ({key(event)} if expected else set())
        if expected:
            row = self.rows[key(event)]
            row.available = max(row.available, self.now + LEASE_SECONDS)

    # -- workers

    @rule(target=claims, owner=st.sampled_from(OWNERS), limit=st.integers(1, 4))
    def claim(self, owner: str, limit: int) -> Any:
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
        return multiple(*claims)

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        row = self._held(claim)
        expected = row is not None and row.owner != ""
        assert self.table.renew(claim, LEASE_SECONDS) == expected
        if row is not None and expected:
            row.available = max(row.available, self.now + LEASE_SECONDS)

    @rule(claim=claims, outcome=OUTCOMES, dies=st.booleans())
    def settle(self, claim: Claim, outcome: Outcome, dies: bool) -> None:
        """The process may die between what it keeps and the acknowledgement."""
        lane = DirectLane(self.table, dies=dies)
        delivery = Delivery(
            event=claim.event, lane=lane, token=claim, redelivered=claim.redelivered, received_at=0.0
        )
        self.settler.settle([(delivery, outcome)])
        if isinstance(outcome, Retry):
            due = self.now + int(outcome.after_seconds)
            self.rows.setdefault(key(next_attempt(claim.event)), Row(due=due, available=due))
        if isinstance(outcome, Dead):
            self.failed.add(key(claim.event))
        row = None if dies else self._held(claim)
        if isinstance(outcome, Release):
            if row is not None:
                row.available, row.owner = row.due, ""
        elif row is not None:
            assert lane.done_count == 1
            del self.rows[key(claim.event)]
            if isinstance(outcome, Done | Discard):
                self.gone.add(claim.event.message_id)
        else:
            assert lane.done_count == 0

    @rule(owner=st.sampled_from(OWNERS))
    def sweep(self, owner: str) -> None:
        """The worker process is taken for dead; it may live, and go on with what it holds."""
        owned = [row for row in self.rows.values() if row.owner == owner]
        assert self.table.release_owned([owner]) == len(owned)
        for row in owned:
            row.available = row.due

    # -- the operator, and time

    @rule()
    def purge(self) -> None:
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

    def _unclaimed(self, event: Event) -> bool:
        row = self.rows.get(key(event))
        return row is not None and row.owner == ""

    def _held(self, claim: Claim) -> Row | None:
        """The row, if the claim still holds it: nobody else has claimed it since."""
        row = self.rows.get(key(claim.event))
        return row if row is not None and row.lease == claim.lease else None

    def _is_held(self, row: Row) -> bool:
        return row.available > self.now and (row.owner != "" or row.available > row.due)


@pytest.mark.timeout(300)
def test_the_event_table_does_what_its_model_does(
    queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the machine makes of it
    TableMachine.table = EventTable("default")
    run_state_machine_as_test(
        TableMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

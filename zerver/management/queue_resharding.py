"""Moves what waits in a sharded queue to where each event's key belongs now that the number of shards is another.

Both lanes, from every queue that there may be of it: its shards, those that it had, and itself without shards. Every
step looks at what is there, not at what was done before, so that whatever breaks it off, the same command goes on.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from zerver.lib.counted import counted
from zerver.lib.errors import ShardKeyUnusable, TransportError, TransportUnavailable
from zerver.lib.event_table import EventTable
from zerver.lib.pauses import Pause, holding, paused
from zerver.lib.printable import one_line
from zerver.lib.registry import QueueDeclaration, shards_of
from zerver.lib.resharding import move_rows
from zerver.lib.shard_names import possible_shards
from zerver.lib.transport.base import Depth
from zerver.lib.transport.database import DatabaseTransport
from zerver.lib.transport.rabbitmq.admin import BrokerAdmin
from zerver.management.obedience import name_of
from zerver.management.queue_migration import MAX_ROUNDS, Tell, delete_if_empty, surely_ready
from zerver.models import WorkerProcess
from zerver.monitoring.workers import live_workers
from zerver.worker import handed_back

#: Of the fast lane, as ``RabbitTransport`` has it.
BROKER = "rabbitmq"


@dataclass(eq=False)
class ReshardRefused(TransportError):
    """Somebody takes from these queues, who would see events of one key in another order. Nothing was lost."""

    queue: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"queue {self.queue!r}: {self.problem}; {self.mend}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resharded:
    """What became of one queue on one lane."""

    queue: str
    lane: str
    #: To where they belong; None: nobody can know before they are looked at.
    moved: int | None
    #: In somebody's hand, or not to be read; None: the lane cannot tell.
    out_of_reach: int | None = 0
    #: The queue itself is gone, for nothing belongs there any more.
    is_deleted: bool = False
    problem: str = ""


@dataclass(slots=True, kw_only=True)
class Resharding:
    """One run of it, and what it has done so far."""

    queue: QueueDeclaration
    alias: str
    #: None where there is the event table alone.
    admin: BrokerAdmin | None
    tell: Tell
    dry_run: bool
    found: list[Resharded] = field(default_factory=list)
    #: Moved of the queue that is at hand.
    under_way: int = 0
    #: Without a usable key, which were put into the first shard for its worker to file.
    keyless: int = 0
    _wanted: dict[str, QueueDeclaration] = field(init=False)

    def __post_init__(self) -> None:
        self._wanted = {each.name: each for each in shards_of(self.queue)}

    @property
    def moved(self) -> int:
        return self.under_way + sum(each.moved or 0 for each in self.found)

    def run(self) -> None:
        """Raises: ReshardRefused, QueueMismatch, TransportUnavailable; the same call later goes on."""
        names = [self.queue.name, *possible_shards(self.queue.name)]
        present = {} if self.admin is None else self.admin.present(names)
        if not self.dry_run:
            self._refuse_takers(names)
            _refuse_consumers(self.queue.name, present)
        self._move_rows(names)
        if self.admin is not None:
            self._sort_all(self.admin, names, present)

    # -- who takes from them

    def _refuse_takers(self, names: Collection[str]) -> None:
        rows = list(WorkerProcess.objects.using(self.alias).filter(queue__in=names).order_by("queue", "host"))
        pauses = paused(self.alias)
        takers = [
            process
            for process in live_workers(rows, EventTable(self.alias).now_ms())
            if not _is_at_rest(process, pauses)
        ]
        if takers:
            listed = ", ".join(f"{name_of(process)} ({process.queue})" for process in takers)
            raise ReshardRefused(
                self.queue.name,
                f"worker processes take from it: {listed}",
                f"pause it first: ./manage.py queue_workers pause --queue {self.queue.name}, and resume it afterwards",
            )

    # -- the lanes

    def _move_rows(self, names: Collection[str]) -> None:
        depths = EventTable(self.alias).depths()
        rows = sum(each.ready + each.held + each.later for name, each in depths.items() if name in names)
        if not rows:
            return
        reach = self.tell("looking through the event table", rows)
        moved = move_rows(self.alias, names, self._place, reach, dry_run=self.dry_run)
        self.found += [
            Resharded(
                queue=name, lane=DatabaseTransport.name, moved=each.count, out_of_reach=each.out_of_reach
            )
            for name, each in moved.items()
        ]

    def _sort_all(self, admin: BrokerAdmin, names: Sequence[str], present: dict[str, Depth]) -> None:
        surplus = [name for name in present if name not in self._wanted]
        shared = [name for name in present if name in self._wanted and len(self._wanted) > 1]
        if self.dry_run:
            self.found += _forecast(surplus, shared, present)
            return
        if surplus or shared:
            for each in self._wanted.values():
                admin.declare(each)
        # Those that go come first: while one of them is left, queue_check tells that it is not done.
        has_failed = False
        for name in [*reversed(surplus), *shared]:
            self._refuse_takers(names)
            try:
                done = self._sorted(admin, name, is_surplus=name in surplus)
            except TransportUnavailable as error:
                if has_failed:
                    raise  # it is not one queue that does not answer
                done = Resharded(
                    queue=name,
                    lane=BROKER,
                    moved=self.under_way,
                    out_of_reach=None,
                    problem=f"{one_line(error)}; run it again once that is over",
                )
            has_failed = bool(done.problem)
            self.under_way = 0
            self.found.append(done)

    def _sorted(self, admin: BrokerAdmin, name: str, *, is_surplus: bool) -> Resharded:
        """One of them, and deleted if nothing belongs there."""
        for _ in range(MAX_ROUNDS):
            before = self.under_way
            if ready := surely_ready(admin, name):
                reach = self.tell(f"sorting {name}", ready)
                done = admin.sort(
                    name,
                    lambda body: self._place(name, body),
                    lambda ids: handed_back.note(name, ids, self.alias),
                    reach,
                )
                self.under_way = before + done.moved
            if not is_surplus or delete_if_empty(admin, name):
                return Resharded(
                    queue=name, lane=BROKER, moved=self.under_way, out_of_reach=None, is_deleted=is_surplus
                )
        return Resharded(
            queue=name,
            lane=BROKER,
            moved=self.under_way,
            out_of_reach=None,
            problem=f"{name} is published to faster than it can be emptied: restart who publishes by the old number of "
            "shards",
        )

    def _place(self, source: str, body: bytes) -> str:
        try:
            return self.queue.place(body)
        except ShardKeyUnusable:
            if source in self._wanted:
                return source
            self.keyless += 1
            return next(iter(self._wanted))


def _is_at_rest(process: WorkerProcess, paused: Mapping[str, Pause]) -> bool:
    """It obeys a pause that holds still: it takes nothing, and has nothing in hand."""
    pause = holding(paused, process.queue)
    return pause is not None and process.paused_at_ms == pause.at_ms


def _refuse_consumers(name: str, present: dict[str, Depth]) -> None:
    """Who is in no database of ours."""
    consumed = {each: depth.consumers for each, depth in present.items() if depth.consumers}
    if consumed:
        listed = ", ".join(f"{each}: {count}" for each, count in consumed.items())
        raise ReshardRefused(
            name,
            f"it is consumed on the broker (consumers of {listed})",
            "a worker that was just paused or stopped is gone in a moment; else: rabbitmqctl list_consumers",
        )


def _forecast(
    surplus: Sequence[str], shared: Sequence[str], present: dict[str, Depth]
) -> Iterator[Resharded]:
    for name in [*reversed(surplus), *shared]:
        depth = present[name]
        yield Resharded(
            queue=name,
            lane=BROKER,
            moved=depth.ready if name in surplus or not depth.ready else None,
            out_of_reach=None,
            is_deleted=name in surplus,
        )


def told_left(found: Sequence[Resharded]) -> str:
    """What is still to be done, in a sentence; empty where nothing is."""
    rows = sum(each.out_of_reach or 0 for each in found)
    said = [each.problem for each in found if each.problem]
    if rows:
        said.append(
            f"{counted(rows, 'row')} of the event table could not be reached, in somebody's hand or sealed with a key "
            "that is not here: run it again in half a minute"
        )
    return "; ".join(said)

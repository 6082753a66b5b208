"""Where a scenario plays: producers and workers as processes of their own, and a ledger outside of them all."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos.balance import Ledger, Verdict
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import FailedEvent, WaitingEvent

T = TypeVar("T")

#: How long what was accepted may take after the last fault: leases of the dead end after a minute.
SETTLE_SECONDS = 120.0
ACK_WINDOW = 64
#: The largest publish call of a producer. Units: events.
MOST_AT_ONCE = 20
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything; see ``conftest``."""

    is_long: bool

    def of(self, quick: int, long: int) -> int:
        return long if self.is_long else quick


@dataclass(slots=True)
class Watched:
    """A worker process, which is started again when it ends, as supervisord does."""

    arguments: tuple[str, ...]
    env: dict[str, str]
    process: ProjectProcess
    #: Exit codes so far.
    ends: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Stage:
    """One scenario's. Everything it waits for also looks after the workers."""

    test: str
    seed: str
    scale: Scale
    chance: random.Random
    env: dict[str, str]
    ledger: Ledger
    #: For files that events may name.
    directory: Path
    start: Callable[..., ProjectProcess]
    report_path: Path
    #: As in ``Verdict``.
    rabbitmq: str
    workers: list[Watched] = field(default_factory=list)
    producers: list[ProjectProcess] = field(default_factory=list)
    #: Everybody who ever played, the dead too: what they said is looked through at the end.
    _processes: list[ProjectProcess] = field(default_factory=list)
    _offered: int = 0

    # -- who plays

    def work(self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> Watched:
        """A worker process of ``ledger``, or as the arguments say; keyword arguments are ``QUEUE_OVERRIDES``."""
        arguments = ("process_queue", *(arguments or ("--queue=ledger",)))
        whole = {**self.env, "QUEUE_OVERRIDES": json.dumps(options), **(env or {})}
        self.workers.append(Watched(arguments, whole, self._begin(*arguments, env=whole)))
        return self.workers[-1]

    def produce(
        self, count: int, *, per_second: float = 200.0, env: Mapping[str, str] | None = None, **options: Any
    ) -> ProjectProcess:
        """A producer of so many events, with numbers of its own, in ways left to chance."""
        told = {"first": self._offered, "count": count, "per_second": per_second, **options}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
        self._offered += count
        self.producers.append(
            self._begin(
                "ledger_produce",
                *arguments,
                f"--seed={self.chance.getrandbits(64)}",
                env={**self.env, **(env or {})},
            )
        )
        return self.producers[-1]

    def _begin(self, *arguments: str, env: Mapping[str, str]) -> ProjectProcess:
        self._processes.append(self.start(*arguments, env=dict(env)))
        return self._processes[-1]

    # -- when

    def until(
        self, condition: Callable[[], T], what: str | Callable[[], str], timeout_seconds: float = 60.0
    ) -> T:
        """Wait for it; meanwhile whoever ended is started again."""

        def look() -> T:
            self._look_after()
            return condition()

        return wait_for(look, timeout_seconds, what)

    def until_done(self, count: int, timeout_seconds: float = 60.0) -> None:
        """Until so many events have had their effect."""

        def is_done() -> bool:
            self.ledger.read()
            return self.ledger.done >= count

        self.until(
            is_done, lambda: f"{count} effects, of which there are {self.ledger.done}", timeout_seconds
        )

    def moments(self, count: int, among: int, within_seconds: float = 60.0) -> Iterator[int]:
        """So many moments, spread by chance over the effects of ``among`` events; each is waited for.

        Effects and not seconds, so that a slow machine is hit at the same places. ``within_seconds``: from one to the
        next.
        """
        for moment in sorted(self.chance.sample(range(among // 10, among * 8 // 10), count)):
            self.until_done(moment, within_seconds)
            yield moment

    def rounds(
        self, count: int, events: int, *, per_second: float, among: int, **options: Any
    ) -> Iterator[int]:
        """So many faults that take a while, each with a load of its own.

        Yields while that is being produced, at a moment left to chance among so many effects.
        """
        for number in range(count):
            self.ledger.read()
            moment = self.ledger.done + self.chance.randrange(among // 10, among)
            self.produce(events, per_second=per_second, **options)
            self.until_done(moment)
            yield number

    def let_pass(self, seconds: float) -> None:
        """What is broken stays so for a while: only time can do that."""
        over_at = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= over_at, f"{seconds:g} s to pass", seconds + 10)

    # -- what is done to workers

    def victim(self) -> Watched:
        """One of the workers that have begun to take events: the load would be over before another has."""

        def begun() -> list[Watched]:
            return [worker for worker in self.workers if "worker started" in worker.process.output]

        return self.chance.choice(self.until(begun, "a worker to start"))

    @property
    def ends(self) -> int:
        """How many worker processes have ended and were started again."""
        return sum(len(worker.ends) for worker in self.workers)

    @property
    def deaths(self) -> int:
        """How many of them were killed."""
        return sum(code < 0 for worker in self.workers for code in worker.ends)

    def kill(self, worker: Watched) -> None:
        worker.process.signal(signal.SIGKILL)
        worker.process.wait()
        self._look_after()

    def kill_in_handler(self, worker: Watched) -> None:
        """Between the beginning of a handler and its effect: seen in the ledger, while the process stands still."""

        def stands_in_handler() -> bool:
            worker.process.signal(signal.SIGSTOP)
            self.ledger.read()
            if self.ledger.last.get(worker.process.pid) == "started":
                return True
            worker.process.signal(signal.SIGCONT)
            return False

        self.until(stands_in_handler, lambda: f"{worker.process} in a handler")
        self.kill(worker)

    def end(self, worker: Watched) -> None:
        """SIGTERM, as supervisord stops a program; returns when it has ended, and its successor is starting."""
        ends = len(worker.ends)
        worker.process.signal(signal.SIGTERM)
        self.until(lambda: len(worker.ends) > ends, lambda: f"the end of {worker.process}")

    def _look_after(self) -> None:
        for producer in self.producers:
            assert producer.returncode in (None, 0, -signal.SIGKILL), producer.output
        for worker in self.workers:
            ended = worker.process.returncode
            if ended is not None:
                worker.ends.append(ended)
                worker.process = self._begin(*worker.arguments, env=worker.env)

    # -- the end

    def balance(
        self,
        scenario: str,
        *,
        faults: int | Callable[[], int],
        duplicates_per_fault: int = ACK_WINDOW,
        failed: int = 0,
        may_refuse: bool = False,
        may_trace: bool = False,
        exit_codes: Collection[int] = (0, -signal.SIGKILL),
        settle_seconds: float = SETTLE_SECONDS,
    ) -> Verdict:
        """Wait until everything that was accepted has had its effect, and enter the row of ``docs/promises.md``.

        ``faults`` may be counted at the end; the promise bounds what each may bring twice. ``may_refuse``: the database
        was away too, so that callers got errors. ``may_trace``: some process has reason to say a traceback.
        ``exit_codes``: how workers may have ended.
        """
        try:
            self.await_producers()
            self.until(self._is_balanced, self._what_is_missing, settle_seconds)
            self.until(self._is_empty, lambda: f"both lanes to be empty: {self._waiting()}", settle_seconds)
        finally:
            # Of a run that loses something too: the table is of all.
            self.ledger.read()
            count = faults if isinstance(faults, int) else faults()
            verdict = self._enter_row(scenario, count, duplicates_per_fault)
        assert not self.ledger.ghosts, "effects of what was rolled back"
        assert count > 0, "nothing was broken"
        assert self.ledger.duplicates <= verdict.duplicates_bound
        assert may_refuse or not self.ledger.refused, f"refused with the table there: {self.ledger.errors}"
        ends = {code for worker in self.workers for code in worker.ends}
        assert ends <= set(exit_codes), f"workers that ended by themselves: {ends}"
        assert may_trace or not self._tracebacks(), "tracebacks:\n" + "\n".join(self._tracebacks())
        assert FailedEvent.objects.count() == failed, list(
            FailedEvent.objects.values_list("error", flat=True)
        )
        return verdict

    def await_producers(self) -> None:
        """Until all have published what they were told to."""
        for producer in self.producers:
            self.until(lambda process=producer: not process.is_running(), f"the end of {producer}", 120)  # type: ignore[misc]

    def _enter_row(self, scenario: str, faults: int, duplicates_per_fault: int) -> Verdict:
        verdict = Verdict(
            scenario=scenario,
            test=self.test,
            seed=self.seed,
            offered=self._offered,
            faults=faults,
            lost=len(self.ledger.lost),
            duplicated=self.ledger.duplicates,
            duplicates_bound=faults * duplicates_per_fault,
            longest_stall_seconds=round(self.ledger.longest_stall_seconds, 1),
            rabbitmq=self.rabbitmq,
            is_long=self.scale.is_long,
        )
        print(f"chaos: {verdict}")
        self.report_path.parent.mkdir(parents=True, exist_ok=True)
        with self.report_path.open("a") as report:
            report.write(json.dumps(asdict(verdict)) + "\n")
        return verdict

    def _tracebacks(self) -> list[str]:
        return [
            f"{process}: {before[-500:]}{TRACEBACK}{after[:3000]}"
            for process in self._processes
            for before, found, after in [process.output.partition(TRACEBACK)]
            if found
        ]

    def _is_balanced(self) -> bool:
        self.ledger.read()
        return bool(self.ledger.accepted) and not self.ledger.missing

    def _what_is_missing(self) -> str:
        missing = self.ledger.missing
        return (
            f"the effects of {len(missing)} of {len(self.ledger.accepted)} accepted events ({missing[:20]} …);"
            f" {self._waiting()}"
        )

    def _waiting(self) -> dict[str, int]:
        fast = current.fast_lane()
        waiting = {"in the table": WaitingEvent.objects.count()}
        if fast is not None:
            for queue in queues.all():
                if queue.name.startswith("ledger"):
                    depth = fast.depth(queue)
                    waiting[queue.name] = (depth.ready or 0) + (depth.unacked or 0)
        return {name: count for name, count in waiting.items() if count}

    def _is_empty(self) -> bool:
        return not self._waiting()


@contextmanager
def open_stage(stage: Stage) -> Iterator[Stage]:
    try:
        yield stage
    finally:
        for worker in stage.workers:
            worker.process.kill()
        for producer in stage.producers:
            producer.kill()
        current.close_all()

"""Queue declarations: what is declared, of which type, with which options.

``assign_queue`` writes here, everything else reads. A declaration is a value; the worker class is carried along
without being looked at, so that this room knows nothing of workers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import ConfigurationError, InvalidDeclaration, UnknownQueue, WrongShard
from zerver.lib.event import EventType
from zerver.lib.option_rules import OF_BATCHES, OF_COROUTINES, problems_of
from zerver.lib.shard_keys import key_of, line_of, shard_of
from zerver.lib.shard_names import family_of, possible_shards, shard_name, shard_number, shards_named

QueueType = Literal["quorum", "classic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDeclaration:
    """A queue and everything declared of it. Defaults suit most queues; see docs/options.md."""

    name: str
    event_type: EventType = field(default_factory=EventType, compare=False, repr=False)
    #: Module that declares it, for errors and listings.
    module: str = ""
    #: Consumed in batches; said by the class, not by an option.
    is_batch: bool = False
    #: Its handler is a coroutine function; said by the class as well.
    is_async: bool = False
    #: False: events are accepted and wait, but no worker runs by default.
    enabled: bool = True
    #: Left out of ``--all`` and of listings unless asked for.
    is_test_queue: bool = False

    # fleet
    #: Worker processes that should run.
    workers: int = 1
    #: Handler threads in each.
    threads: int = 1
    #: Handlers that run at once in each where they are coroutines; of no meaning elsewhere.
    concurrency: int = 100
    #: Recycle the process after so many events.
    max_events: int | None = None
    #: Recycle the process when its memory has grown over this.
    max_rss_mb: int | None = None

    # taking
    #: Events that a worker process may hold unsettled from the broker.
    prefetch: int = 1000
    batch_size: int = 100
    #: The longest that an event waits for its batch to fill.
    batch_seconds: float = 1.0
    #: Settled events per acknowledgement; 1 acknowledges each at once.
    ack_batch: int = 64

    # running
    #: Longest run of one handler call, a batch's too.
    timeout_seconds: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    #: Processes that may die of an event before it is dead.
    max_crashes: int = 3
    #: Handler, inbox row and published events share one transaction.
    transactional: bool = False

    # broker
    queue_type: QueueType = "quorum"

    # shards
    #: Queues that this one stands for, ``NAME.0`` and so on; None or 1: it is one queue. A shard says it as well.
    shards: int | None = None
    #: Path of the field by which an event finds its shard, and its line in a queue that is ordered.
    shard_key: str | None = None

    # order
    #: Events of one key are handled one after the other, in the order of their publishing, and a retry holds its key.
    #: They go through the event table alone. Without ``shard_key`` the whole queue is one line.
    ordered: bool = False

    # watching: backlog older than this
    warn_seconds: float = 30.0
    crit_seconds: float = 60.0

    # showing
    #: Fields that bodies are shown without, and that are masked in what is said of them; see ``lib.redaction``.
    redact: tuple[str, ...] = ()

    @property
    def in_hand(self) -> int:
        """Events that one worker process may hold unsettled: a batch must be able to fill, and as many must be able to
        run as may, with others there for those that end.
        """
        if self.is_async:
            return max(self.prefetch, 2 * self.concurrency)
        return max(self.prefetch, self.batch_size) if self.is_batch else self.prefetch

    @property
    def handlers(self) -> int:
        """Handler calls that may run at once in one worker process."""
        return self.concurrency if self.is_async else self.threads

    @property
    def is_sharded(self) -> bool:
        """Its events are in shards; it is one of them, or their family."""
        return self.shards is not None and self.shards > 1

    @property
    def shard(self) -> int | None:
        """Its number; None: it is no shard."""
        return shard_number(self.name)

    @property
    def family(self) -> str:
        """The name that it was declared by."""
        return family_of(self.name)

    def place(self, body: bytes) -> str:
        """Name of the queue that an event of this one is kept in. Raises: ShardKeyUnusable, WrongShard."""
        if self.shards is None or self.shards == 1 or self.shard_key is None:
            return self.name
        found = shard_name(self.family, shard_of(key_of(self.name, body, self.shard_key), self.shards))
        if self.shard is not None and found != self.name:
            raise WrongShard(self.name, found, self.family)
        return found

    def line(self, body: bytes) -> int | None:
        """The line that an event stands in, for all that are handled one after the other; None: order is not kept.

        Raises: ShardKeyUnusable.
        """
        if not self.ordered:
            return None
        return line_of(key_of(self.name, body, self.shard_key) if self.shard_key is not None else None)

    def __post_init__(self) -> None:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        for problem, mend in problems_of(given):
            raise InvalidDeclaration(self.name, problem, mend)


#: What ``assign_queue`` and ``QUEUE_OVERRIDES`` may set.
OPTIONS = tuple(
    item.name
    for item in fields(QueueDeclaration)
    if item.name not in ("name", "event_type", "module", "is_batch", "is_async")
)


class QueueRegistry:
    """All declarations of this process, and the worker modules that could not be read."""

    def __init__(self) -> None:
        self._queues: dict[str, QueueDeclaration] = {}
        self._workers: dict[str, type] = {}
        self._broken: dict[str, str] = {}
        self._overrides: Mapping[str, Mapping[str, Any]] = {}
        #: Declarations with their overrides laid over; made anew after every change.
        self._resolved: dict[str, QueueDeclaration] = {}

    def declare(self, queue: QueueDeclaration, worker_class: type) -> None:
        """Raises: InvalidDeclaration when another class has the name, or it is a shard's."""
        if queue.shard is not None:
            raise InvalidDeclaration(
                queue.name, "is a shard's name", f"declare {queue.family!r}, with shards= and shard_key="
            )
        present = self._workers.get(queue.name)
        if present is not None and _path(present) != _path(worker_class):
            raise InvalidDeclaration(
                queue.name,
                f"is declared by {_path(present)} and by {_path(worker_class)}",
                "a queue has one worker class; rename one of them",
            )
        self._queues[queue.name] = queue
        self._workers[queue.name] = worker_class
        for name in (queue.name, *possible_shards(queue.name)):
            self._resolved.pop(name, None)

    def apply_overrides(self, overrides: Mapping[str, Mapping[str, Any]]) -> None:
        """Lay ``QUEUE_OVERRIDES`` over the declarations, those to come included.

        Raises: InvalidDeclaration when a queue's options become nonsense.
        """
        self._overrides = overrides
        self._resolved.clear()
        for name in self._queues:
            self.lookup(name)

    def lookup(self, name: str) -> QueueDeclaration:
        """A queue, or what all shards of a sharded one have in common: nothing is kept under that name itself.

        Raises: UnknownQueue naming what is declared and which modules failed to import.
        """
        try:
            resolved = self._resolved.get(name)
        except TypeError as error:  # an event, most often: the arguments are in the wrong order
            raise TypeError(
                f"the queue's name comes first, and is a str, not {type(name).__name__}"
            ) from error
        if resolved is not None:
            return resolved
        if name not in self._queues:
            return self._lookup_shard(name)
        try:
            resolved = with_options(self._queues[name], self._overrides.get(name, {}))
        except InvalidDeclaration as error:
            # The declaration alone was looked at when it was made.
            raise InvalidDeclaration(
                name, f"QUEUE_OVERRIDES makes it nonsense: {error.problem}", error.mend
            ) from error
        self._resolved[name] = resolved
        return resolved

    def _lookup_shard(self, name: str) -> QueueDeclaration:
        family = family_of(str(name))
        if family != name and family in self._queues:
            for shard in shards_of(self.lookup(family)):
                self._resolved[shard.name] = shard
        if name not in self._resolved:
            raise UnknownQueue(name, tuple(sorted(self._queues)), tuple(sorted(self._broken.items())))
        return self._resolved[name]

    def declared(self, name: str) -> QueueDeclaration:
        """As the code declares it, or the family of this shard, without overrides. Raises: UnknownQueue."""
        self.lookup(name)
        return self._queues[family_of(name)]

    def worker_class(self, name: str) -> type:
        """Raises: UnknownQueue."""
        self.lookup(name)
        return self._workers[family_of(name)]

    def families(self, *, test_queues: bool = False) -> list[QueueDeclaration]:
        """Every declaration, by name: of shards, what they have in common. Test queues only when asked for."""
        queues = [self.lookup(name) for name in sorted(self._queues)]
        return [queue for queue in queues if test_queues or not queue.is_test_queue]

    def all(self, *, test_queues: bool = False) -> list[QueueDeclaration]:
        """Every queue that there should be, by name, shards each by itself; test queues only when asked for."""
        return [shard for queue in self.families(test_queues=test_queues) for shard in shards_of(queue)]

    def names(self) -> set[str]:
        """Every name that means something: those of queues, and those that stand for shards."""
        return {queue.name for queue in (*self.families(test_queues=True), *self.all(test_queues=True))}

    # What people mean by a name: commands resolve it here.

    def expand(self, names: Iterable[str]) -> list[str]:
        """The queues that are meant, each once: a sharded queue's name stands for its shards, any other for itself."""
        found: dict[str, None] = {}
        for name in names:
            is_family = name in self._queues and self.lookup(name).is_sharded
            found |= dict.fromkeys(
                [shard.name for shard in shards_of(self.lookup(name))] if is_family else [name]
            )
        return list(found)

    def every_name(self, name: str) -> list[str]:
        """Under which there may be rows and queues of it: all shards that it ever had among them, if it may have any.

        A shard's name, and one that nobody declares, mean that queue alone.
        """
        is_family = name in self._queues and self.lookup(name).shards is not None
        return [name, *possible_shards(name)] if is_family else [name]

    def module_failed(self, module: str, why: str) -> None:
        """A worker module could not be imported; its queues are unknown, the others work on."""
        self._broken[module] = why

    @property
    def broken_modules(self) -> Mapping[str, str]:
        return self._broken

    @property
    def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        return self._overrides


def shards_of(queue: QueueDeclaration) -> list[QueueDeclaration]:
    """The queues that a declaration stands for: its shards, by number, or itself."""
    if queue.shard is not None or queue.shards is None or queue.shards == 1:
        return [queue]
    return [replace(queue, name=name) for name in shards_named(queue.name, queue.shards)]


def left_over_names(queue: QueueDeclaration) -> list[str]:
    """Of the queues that another number of shards may have left; [] where there were never any."""
    if queue.shards is None:
        return []
    wanted = shards_named(queue.family, queue.shards) if queue.is_sharded else [queue.family]
    return [name for name in (queue.family, *possible_shards(queue.family)) if name not in wanted]


def with_options(queue: QueueDeclaration, options: Mapping[str, Any]) -> QueueDeclaration:
    """The declaration with some options changed. Raises: InvalidDeclaration naming an unknown one."""
    for option in options:
        if option not in OPTIONS:
            raise InvalidDeclaration(
                queue.name, f"has no option {option!r}", f"choose from {', '.join(OPTIONS)}"
            )
        if option in OF_BATCHES and not queue.is_batch:
            raise InvalidDeclaration(
                queue.name,
                f"{option} is for workers that take batches",
                "inherit from LoopQueueProcessingWorker, or leave it out",
            )
        if option in OF_COROUTINES and not queue.is_async:
            raise InvalidDeclaration(
                queue.name,
                f"{option} is for workers whose consume is async",
                "write async def consume, or say threads",
            )
    values = dict(options)
    if isinstance(values.get("retry"), Mapping):
        values["retry"] = _retry_policy(queue, values["retry"])
    if isinstance(values.get("redact"), list):
        values["redact"] = tuple(values["redact"])
    return replace(queue, **values)


def _retry_policy(queue: QueueDeclaration, changes: Mapping[str, Any]) -> RetryPolicy:
    """The queue's own policy with some of it changed: how JSON in ``QUEUE_OVERRIDES`` says it."""
    known = [item.name for item in fields(RetryPolicy)]
    for name in changes:
        if name not in known:
            raise InvalidDeclaration(queue.name, f"retry has no {name!r}", f"choose from {', '.join(known)}")
    try:
        return replace(queue.retry, **changes)
    except ConfigurationError as error:
        raise InvalidDeclaration(queue.name, f"retry={dict(changes)!r}", str(error)) from error


def _path(worker_class: type) -> str:
    return f"{worker_class.__module__}.{worker_class.__qualname__}"


#: The declarations of this process.
queues = QueueRegistry()

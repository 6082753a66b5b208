"""Queue declarations: what is declared, of which type, with which options.

``assign_queue`` writes here, everything else reads. A declaration is a value; the worker class is carried along
without being looked at, so that this room knows nothing of workers.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import ConfigurationError, InvalidDeclaration, UnknownQueue, WrongShard
from zerver.lib.event import EventType
from zerver.lib.shard_keys import key_of, shard_of
from zerver.lib.shard_names import (
    LONGEST_FAMILY,
    LONGEST_NAME,
    MAX_SHARDS,
    family_of,
    possible_shards,
    shard_name,
    shard_number,
    shards_named,
)

QueueType = Literal["quorum", "classic"]

#: A declared name, or a shard's.
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.(0|[1-9][0-9]{0,2}))?")


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
    #: Path of the field by which an event finds its shard.
    shard_key: str | None = None

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

    def __post_init__(self) -> None:
        for problem, mend in _problems(self):
            raise InvalidDeclaration(self.name, problem, mend)


#: Options that mean something only to workers that take batches, and only to those with coroutines.
_OF_BATCHES = ("batch_size", "batch_seconds")
_OF_COROUTINES = ("concurrency",)

#: What ``assign_queue`` and ``QUEUE_OVERRIDES`` may set.
OPTIONS = tuple(
    item.name
    for item in fields(QueueDeclaration)
    if item.name not in ("name", "event_type", "module", "is_batch", "is_async")
)

_AT_LEAST_ONE = ("workers", "threads", "concurrency", "prefetch", "batch_size", "ack_batch")
_OPTIONAL_AT_LEAST_ONE = ("max_events", "max_rss_mb")
_ABOVE_ZERO = ("batch_seconds", "timeout_seconds", "warn_seconds", "crit_seconds")
_FLAGS = ("enabled", "is_test_queue", "transactional")


def _problems(queue: QueueDeclaration) -> list[tuple[str, str]]:
    """Shape: (what is wrong, what would be right) each. Types are looked at: what comes in is not checked by mypy."""
    found = []
    given: dict[str, Any] = {item.name: getattr(queue, item.name) for item in fields(queue)}
    if (
        not isinstance(given["name"], str)
        or not _NAME.fullmatch(queue.name)
        or len(queue.name) > LONGEST_NAME
    ):
        found.append(("is no queue name", "use lower-case letters, digits and _, a letter first, at most 63"))
    for option in _AT_LEAST_ONE + _OPTIONAL_AT_LEAST_ONE:
        value = given[option]
        if value is None and option in _OPTIONAL_AT_LEAST_ONE:
            continue
        if type(value) is not int or value < 1:
            found.append((f"{option}={value!r}", "give a whole number, 1 or more"))
    for option in _ABOVE_ZERO:
        value = given[option]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value <= 0:
            found.append((f"{option}={value!r}", "give a number of seconds above 0"))
    for option in _FLAGS:
        if not isinstance(given[option], bool):
            found.append((f"{option}={given[option]!r}", "give True or False"))
    if type(given["max_crashes"]) is not int or queue.max_crashes < 2:
        # An event that a dying process had merely prefetched comes again too; it must get its run.
        found.append((f"max_crashes={queue.max_crashes!r}", "give a whole number, 2 or more"))
    if queue.queue_type not in ("quorum", "classic"):
        found.append((f"queue_type={queue.queue_type!r}", "give 'quorum' or 'classic'"))
    found += [*_problems_of_coroutines(queue), *_problems_of_shards(queue)]
    if not isinstance(given["redact"], tuple) or not all(map(_is_path, given["redact"])):
        found.append(
            (f"redact={queue.redact!r}", 'give a list of names like ["password", "user.email", "*"]')
        )
    if not isinstance(given["retry"], RetryPolicy):
        found.append((f"retry={queue.retry!r}", "give a RetryPolicy"))
    if not found and queue.warn_seconds > queue.crit_seconds:
        problem = f"warn_seconds={queue.warn_seconds!r} is over crit_seconds={queue.crit_seconds!r}"
        found.append((problem, "warn before it is critical: set both"))
    return found


def _problems_of_coroutines(queue: QueueDeclaration) -> Iterator[tuple[str, str]]:
    if not queue.is_async:
        return
    if queue.threads != 1:
        problem = f"threads={queue.threads!r} with an async handler"
        yield problem, "say by concurrency how many run at once; they share one thread"
    if queue.transactional is True:
        yield (
            "transactional=True with an async handler",
            "write it as a plain function: Django's transactions do not work in async code",
        )


#: One worker process with one handler at a shard: two at once would keep no order.
_ONE_AT_A_SHARD = ("workers", "threads")


def _problems_of_shards(queue: QueueDeclaration) -> Iterator[tuple[str, str]]:
    shards: Any = queue.shards
    key: Any = queue.shard_key
    if shards is None and key is None:
        return
    if shards is not None and (type(shards) is not int or not 1 <= shards <= MAX_SHARDS):
        yield f"shards={shards!r}", f"give a whole number from 1 to {MAX_SHARDS}"
        return
    if key is not None and not _is_path(key):
        yield f"shard_key={key!r}", 'give the name of a field, like "user_id" or "user.id"'
        return
    if key is None:
        yield f"shards={shards!r} without shard_key", "say by which field an event finds its shard"
    if shards is None:
        yield f"shard_key={key!r} without shards", "say how many; shards=1 is one queue, as without both"
    if not queue.is_sharded:
        return
    for option in (*_ONE_AT_A_SHARD, *(_OF_COROUTINES if queue.is_async else ())):
        if getattr(queue, option) != 1:
            yield (
                f"{option}={getattr(queue, option)!r} with shards={shards}",
                "each shard has one worker process with one handler, or events of one key would overtake each other; "
                "for more at once raise shards",
            )
    if len(str(queue.family)) > LONGEST_FAMILY:
        yield "is too long for a queue with shards", f"give it {LONGEST_FAMILY} characters at most"
    if queue.event_type.is_raw:
        yield f"shards={shards} of undecoded events", "annotate the handler's event with a type that is JSON"


def _is_path(value: object) -> bool:
    return isinstance(value, str) and all(value.split("."))


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
        is_family = name in self._queues and self.lookup(name).shard_key is not None
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
    if queue.shard_key is None or queue.shards is None:
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
        if option in _OF_BATCHES and not queue.is_batch:
            raise InvalidDeclaration(
                queue.name,
                f"{option} is for workers that take batches",
                "inherit from LoopQueueProcessingWorker, or leave it out",
            )
        if option in _OF_COROUTINES and not queue.is_async:
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

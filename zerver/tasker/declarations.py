"""Which types of tasks there are: ``@task`` writes here, everything else reads."""

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final, Literal, TypeVar, get_args

from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import ConfigurationError
from zerver.lib.event import EventType
from zerver.lib.registry import queues
from zerver.tasker.errors import InvalidTask, UnknownTaskType
from zerver.tasker.values import LEAST_PRIORITY, MOST_ATTEMPTS, MOST_PRIORITY
from zerver.worker.annotations import annotation_of, check_is_object, takes_any_object

#: The queue of those that name none.
DEFAULT_QUEUE: Final = "tasks"
#: What of two tasks must differ: nothing, their references, or their payloads.
Unique = Literal["", "reference", "payload"]

_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,254}")
QUEUE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: What would be right instead of a name that is none.
QUEUE_MEND: Final = "use lower-case letters, digits and _, a letter first, at most 63"
#: Those that stand for one argument.
_NAMED: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)

#: A declaration's fields by name.
Given = Mapping[str, Any]
Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDeclaration:
    """A type of tasks, who handles it, and how."""

    type: str
    #: Takes the payload, or nothing.
    handler: Callable[..., Any]
    takes_payload: bool
    payload_type: EventType
    #: Module that declares it, for errors and listings.
    module: str
    queue: str = DEFAULT_QUEUE
    #: Attempts and the waits between them.
    retry: RetryPolicy
    #: Longest run of one attempt.
    timeout_seconds: float = 30.0
    priority: int = 0
    unique: Unique = ""
    #: For so long after its creation another one is refused, even when it has finished.
    unique_seconds: float = 0.0
    #: Nobody has written ``@task``: something above the function needs it to be a task.
    is_implied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finder:
    """Knows types that nobody declares beforehand."""

    #: The declaration of a type; None: it is none that this one knows. Raises: UnknownTaskType, and nothing else.
    find: Callable[[str], TaskDeclaration | None]
    #: The longest ``timeout_seconds`` of what it finds, as far as it is known by now.
    longest_seconds: Callable[[], float]
    #: That its tasks may be on.
    queues: Callable[[], Collection[str]]


class TaskRegistry:
    """All types of tasks of this process."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskDeclaration] = {}
        self._finders: list[Finder] = []

    def declare(self, task: TaskDeclaration) -> None:
        """Raises: InvalidTask when another function has the type."""
        for other in self.of_handler(task.handler):
            if other.is_implied and other.type != task.type:
                raise InvalidTask(
                    task.type,
                    f"@task stands above what has made {other.handler.__name__} a task already",
                    "write @task directly above the function, and @every and @cron above it",
                )
        present = self._tasks.get(task.type)
        if present is not None and _path(present.handler) != _path(task.handler):
            raise InvalidTask(
                task.type,
                f"is declared by {_path(present.handler)} and by {_path(task.handler)}",
                "a type has one handler; rename one of them",
            )
        self._tasks[task.type] = task

    def lookup(self, task_type: str) -> TaskDeclaration:
        """Raises: UnknownTaskType."""
        given: Any = task_type
        if not isinstance(given, str):
            raise UnknownTaskType(repr(given), tuple(sorted(self._tasks)))
        declared = self._tasks.get(task_type)
        found = declared or next(filter(None, (finder.find(task_type) for finder in self._finders)), None)
        if found is None:
            raise UnknownTaskType(
                task_type, tuple(sorted(self._tasks)), tuple(sorted(queues.broken_modules.items()))
            )
        return found

    def add_finder(self, finder: "Finder") -> None:
        """For types that nobody declares beforehand."""
        self._finders.append(finder)

    def of_handler(self, handler: Callable[..., Any]) -> list[TaskDeclaration]:
        """The types that a function handles."""
        return [declared for declared in self._tasks.values() if declared.handler is handler]

    def longest_seconds(self, queue: str | None = None) -> float:
        """That one attempt at a task may take: of those that are declared for a queue, or found for it; where there are
        none, or no queue is asked for, at any.
        """
        declared = self._tasks.values()
        its = [each.timeout_seconds for each in declared if each.queue == queue]
        its += [finder.longest_seconds() for finder in self._finders if queue in finder.queues()]
        found = (finder.longest_seconds() for finder in self._finders)
        return max(its or [0.0, *found, *(each.timeout_seconds for each in declared)])

    def queues(self) -> set[str]:
        """Those that tasks are declared for, or found for."""
        found = {queue for finder in self._finders for queue in finder.queues()}
        return found | {declared.queue for declared in self._tasks.values()}

    def all(self) -> list[TaskDeclaration]:
        """By type."""
        return [self._tasks[name] for name in sorted(self._tasks)]


#: The types of this process.
tasks = TaskRegistry()


def task(
    task_type: str,
    *,
    queue: str = DEFAULT_QUEUE,
    max_attempts: int | None = None,
    retry: RetryPolicy | None = None,
    timeout_seconds: float = 30.0,
    priority: int = 0,
    unique: Unique = "",
    unique_seconds: float = 0.0,
) -> Callable[[Handler], Handler]:
    """Declare a type of tasks and the function that handles it, which can be called as before.

    The function takes the payload, typed by its annotation as an event is, or nothing (an argument that has a default
    is its own), and returns what JSON can carry: the task's result. Any exception is retried by ``retry``, whose
    attempts ``max_attempts`` sets as well.
    Raises: InvalidTask naming the type, what is wrong, and what would be right.
    """
    given: Any = task_type
    if callable(given):
        # The function would become another one, and no task be declared, in silence.
        raise InvalidTask(
            getattr(given, "__name__", repr(given)),
            "@task is written without a type",
            'write @task("itsType")',
        )
    policy = _policy(task_type, retry, max_attempts)

    def declare(handler: Handler) -> Handler:
        refuse = partial(InvalidTask, task_type)
        parameter = _parameter(handler, refuse)
        declared = TaskDeclaration(
            type=task_type,
            handler=handler,
            takes_payload=parameter is not None,
            payload_type=EventType(None if parameter is None else _payload_type(handler, parameter, refuse)),
            module=handler.__module__,
            queue=queue,
            retry=policy,
            timeout_seconds=timeout_seconds,
            priority=priority,
            unique=unique,
            unique_seconds=unique_seconds,
        )
        for problem, mend in _problems_of(
            {item.name: getattr(declared, item.name) for item in fields(declared)}
        ):
            raise refuse(problem, mend)
        tasks.declare(declared)
        return handler

    return declare


def _policy(task_type: str, retry: RetryPolicy | None, max_attempts: int | None) -> RetryPolicy:
    given: Any = retry
    if given is not None and not isinstance(given, RetryPolicy):
        raise InvalidTask(task_type, f"retry={given!r}", "give a RetryPolicy")
    policy = RetryPolicy() if retry is None else retry
    try:
        return policy if max_attempts is None else replace(policy, max_attempts=max_attempts)
    except ConfigurationError as error:
        raise InvalidTask(
            task_type, f"max_attempts={max_attempts!r}", "give a whole number, 1 or more"
        ) from error


def _parameter(handler: Callable[..., Any], refuse: Callable[[str, str], Exception]) -> str | None:
    """The name of what it takes; None: it takes nothing."""
    given: Any = handler
    if not inspect.isfunction(given):
        raise refuse(f"{given!r} is no function", "write @task above a function")
    if "." in given.__qualname__.rpartition("<locals>.")[2]:
        raise refuse(f"{given.__qualname__} is a method", "write @task above a function of the module")
    inner: Any = inspect.unwrap(given)
    if inspect.iscoroutinefunction(inner):
        raise refuse(f"{given.__name__} is async", "write it as a plain function")
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        # To call one runs nothing of it.
        raise refuse(f"{given.__name__} yields", "have it return; nobody takes what it yields")
    parameters = list(inspect.signature(given).parameters.values())
    required = [
        each for each in parameters if each.default is inspect.Parameter.empty and each.kind in _NAMED
    ]
    if len(required) > 1 or (required and required[0].kind is inspect.Parameter.KEYWORD_ONLY):
        raise refuse(
            f"{given.__name__} takes {', '.join(map(str, parameters))}", "take the payload alone, or nothing"
        )
    return required[0].name if required else None


def _payload_type(
    handler: Callable[..., Any], parameter: str, refuse: Callable[[str, str], Exception]
) -> Any:
    annotation = annotation_of(handler, parameter, handler.__name__, "payload", refuse)
    if takes_any_object(annotation):
        return None
    check_is_object(annotation, handler.__name__, "payload", refuse)
    return annotation


def _problems_of(given: Given) -> Iterator[tuple[str, str]]:
    """What is wrong, and what would be right. Types are looked at: what comes in is not checked by mypy."""
    task_type, queue, unique = given["type"], given["queue"], given["unique"]
    if not isinstance(task_type, str) or not _TYPE.fullmatch(task_type):
        yield "is no type of tasks", "use letters, digits and _ . : -, a letter first, at most 255"
    if given["retry"].max_attempts > MOST_ATTEMPTS:
        yield f"max_attempts={given['retry'].max_attempts!r}", f"give {MOST_ATTEMPTS} at most"
    if not isinstance(queue, str) or not QUEUE_NAME.fullmatch(queue):
        yield f"queue={queue!r}", QUEUE_MEND
    if not _is_seconds(given["timeout_seconds"]) or not given["timeout_seconds"]:
        yield f"timeout_seconds={given['timeout_seconds']!r}", "give a number of seconds above 0"
    if problem := priority_problem(given["priority"]):
        yield f"priority={given['priority']!r}", problem
    if unique not in get_args(Unique):
        yield f"unique={unique!r}", "give 'reference' or 'payload', or leave it out"
    if not _is_seconds(given["unique_seconds"]) or (given["unique_seconds"] and not unique):
        yield (
            f"unique_seconds={given['unique_seconds']!r}",
            "give a number of seconds, and unique='reference' or 'payload' beside it",
        )


def priority_problem(priority: object) -> str:
    """What would be right; "" for one that is."""
    if type(priority) is int and LEAST_PRIORITY <= priority <= MOST_PRIORITY:
        return ""
    return f"give a whole number from {LEAST_PRIORITY} to {MOST_PRIORITY}"


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _path(handler: Callable[..., Any]) -> str:
    return f"{handler.__module__}.{handler.__qualname__}"

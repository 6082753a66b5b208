"""What somebody writes of a schedule, looked through: one way for decorators and for ``schedules.create``."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict, get_args

from zerver.lib.errors import EventError
from zerver.lib.event import EventType, encode_event, encode_value
from zerver.lib.registry import QueueDeclaration
from zerver.schedule import recurrence
from zerver.schedule.errors import InvalidSchedule
from zerver.schedule.recurrence import NoRecurrence
from zerver.schedule.values import YEAR_SECONDS, CatchUp, Overlap, Plan
from zerver.tasker.declarations import TaskDeclaration

_NAME_LENGTH: Final = 200
_DAY_SECONDS: Final = 86_400.0
#: Where code is read, settings may not be read yet; what is too large is told when it ticks.
_ANY_SIZE: Final = 1 << 40


class Options(TypedDict, total=False):
    """What may be said of any schedule."""

    #: Of ticks that nobody was there for: "once" for all of them, which is the default; "all" one by one; or "skip".
    catch_up: CatchUp
    #: Older ones are not caught up; a year.
    catch_up_within: timedelta
    #: While the task of an earlier tick is not finished: "skip" this one, which is the default; "queue"; or "allow".
    overlap: Overlap
    #: Each tick's work is due so much later at most, by chance.
    jitter_seconds: float


def plan_of_task(
    name: str, declared: TaskDeclaration, payload: object, rhythm: Mapping[str, Any], options: Options
) -> Plan:
    """Raises: InvalidSchedule."""
    if payload is not None and not declared.takes_payload:
        raise InvalidSchedule(
            name, f"the task {declared.type!r} takes no payload", "leave it out, or have the handler take it"
        )
    kept = _payload(name, declared.type, declared.payload_type, payload) if declared.takes_payload else None
    return _plan(name, rhythm, options, task_type=declared.type, payload=kept)


def plan_of_event(
    name: str,
    queue: QueueDeclaration,
    payload: object,
    rhythm: Mapping[str, Any],
    options: Options,
    limit_bytes: int = _ANY_SIZE,
) -> Plan:
    """Raises: InvalidSchedule."""
    if options.get("overlap", "allow") != "allow":
        raise InvalidSchedule(
            name,
            f"overlap={options['overlap']!r}",
            "of an event nobody knows when it is done; make it a task",
        )
    kept = _payload(name, queue.name, queue.event_type, payload, limit_bytes)
    try:
        body = encode_value(ticked(name, 0)) if kept is None else kept
        queue.place(body)
        queue.line(body)
    except EventError as error:
        raise InvalidSchedule(name, f"payload: {error}", "give one that the queue takes") from error
    if queue.ordered and options.get("jitter_seconds"):
        raise InvalidSchedule(name, f"the queue {queue.name!r} is ordered", "leave out jitter_seconds=")
    return _plan(name, rhythm, {**options, "overlap": "allow"}, queue=queue.name, payload=kept)


def rhythm_of_cron(name: str, line: object, timezone: object) -> dict[str, Any]:
    """Fields of a plan. Raises: InvalidSchedule."""
    try:
        made = recurrence.cron(line, timezone)
    except NoRecurrence as error:
        raise InvalidSchedule(name, error.problem, error.mend) from error
    return {"cron": made.line, "timezone": made.timezone}


def rhythm_of_span(name: str, span: object) -> dict[str, Any]:
    """Fields of a plan. Raises: InvalidSchedule."""
    if not isinstance(span, timedelta):
        raise InvalidSchedule(name, f"every={span!r}", "give a timedelta")
    try:
        recurrence.every(span.total_seconds())
    except NoRecurrence as error:
        raise InvalidSchedule(name, error.problem, error.mend) from error
    return {"seconds": span.total_seconds()}


def ticked(name: str, at_ms: int) -> dict[str, str]:
    """What work is told of its tick, see ``Ticked``."""
    return {"schedule": name, "at": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()}


def _payload(
    name: str, what: str, event_type: EventType, payload: object, limit_bytes: int = _ANY_SIZE
) -> bytes | None:
    """As JSON; None: none is given, and it can be told of the tick."""
    try:
        kept = encode_event(what, ticked(name, 0) if payload is None else payload, event_type, limit_bytes)
    except EventError as error:
        if payload is None:
            mend = "give payload=, or take zerver.schedule.Ticked"
            raise InvalidSchedule(name, f"no payload is given, and {what!r} takes one", mend) from error
        raise InvalidSchedule(name, f"payload: {error}", "give what the handler takes") from error
    return None if payload is None else kept


def _plan(name: str, rhythm: Mapping[str, Any], options: Options, **fields: Any) -> Plan:
    for problem, mend in _problems_of(name, options):
        raise InvalidSchedule(str(name)[:_NAME_LENGTH], problem, mend)
    within = options.get("catch_up_within")
    return Plan(
        name=name,
        catch_up=options.get("catch_up", "once"),
        within_seconds=YEAR_SECONDS if within is None else within.total_seconds(),
        overlap=options.get("overlap", "skip"),
        jitter_seconds=float(options.get("jitter_seconds", 0)),
        **{"task_type": "", "queue": "", **rhythm, **fields},
    )


def _problems_of(name: object, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong, and what would be right. Types are looked at: what comes in is not checked by mypy."""
    if not isinstance(name, str) or not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
        yield "is no name", f"give text of 1 to {_NAME_LENGTH} printable characters"
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        yield f"{unknown[0]}= is unknown", f"there are {', '.join(sorted(Options.__annotations__))}"
    for option, known in (("catch_up", get_args(CatchUp)), ("overlap", get_args(Overlap))):
        if option in options and options[option] not in known:
            yield f"{option}={options[option]!r}", f"choose from {', '.join(map(repr, known))}"
    within = options.get("catch_up_within", timedelta(days=1))
    if not isinstance(within, timedelta) or not timedelta(seconds=1) <= within <= timedelta(days=36_500):
        yield f"catch_up_within={within!r}", "give a timedelta, from a second to 36,500 days"
    jitter = options.get("jitter_seconds", 0)
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter <= _DAY_SECONDS:
        yield f"jitter_seconds={jitter!r}", "give a number of seconds, from 0 to a day"
    if options.get("catch_up") == "all" and options.get("overlap", "skip") == "skip":
        yield (
            "catch_up='all' would skip all but the first, by overlap='skip'",
            "give overlap='queue' or 'allow' beside it",
        )

"""Looks everywhere at once, under one deadline, and puts together what is found."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from django.db import Error as DatabaseError

from zerver.lib import clock
from zerver.lib.conf import QueueSettings, get_settings
from zerver.lib.errors import AuthenticationRefused, ConfigurationError, InvalidSetting, TransportUnavailable
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.transport import current
from zerver.lib.transport.survey import BrokerSurvey
from zerver.monitoring.checkup import broker, programs, supervisor, table, workers
from zerver.monitoring.checkup import settings as project
from zerver.monitoring.checkup.asking import Asked, NoAnswer
from zerver.monitoring.checkup.finding import SOURCES, Checkup, Finding, Gap, Severity, Source
from zerver.monitoring.checkup.table import TableFacts
from zerver.monitoring.snapshot import Snapshot

TIMEOUT_SECONDS = 10.0
#: What follows from another finding, and says nothing new beside it.
_ECHOES = {"broker.no-consumers": "workers.none", "settings.E009": "table.unreachable"}

T = TypeVar("T")


@dataclass(slots=True)
class _Notes:
    """What has been found so far."""

    findings: list[Finding] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A checkup, and what it was made from; None where it was not, or could not be, asked."""

    checkup: Checkup
    survey: BrokerSurvey | None = None
    facts: TableFacts | None = None


def examine(
    only: Collection[Source] = SOURCES,
    *,
    supervisor_paths: Sequence[Path] = (),
    timeout_seconds: float = TIMEOUT_SECONDS,
    names: Collection[str] | None = None,
) -> Evidence:
    """Look at these sources; at all queues, or at those named alone. What does not answer in time is told as such.

    Raises: UnknownQueue for a name that no worker declares and that holds nothing.
    """
    notes = _Notes()
    if "settings" in only:
        notes.findings += project.look()
    try:
        settings = get_settings()
        declared = [queue for queue in queues.all(test_queues=True) if names is None or queue.name in names]
        # Its address is read where it is first asked for.
        lane = current.fast_lane()
    except ConfigurationError as error:
        return Evidence(checkup=_unreadable(error, only, notes))
    until = clock.monotonic() + timeout_seconds
    needs_database = bool({"table", "workers", "broker"} & set(only))
    asked_table = Asked(lambda: table.look(settings.database, names)) if needs_database else None
    asked_broker = (
        Asked(lambda: lane.survey(declared, timeout_seconds))
        if "broker" in only and lane is not None
        else None
    )
    asked_settings = Asked(lambda: project.look([settings.database])) if "settings" in only else None

    facts = _table(asked_table, until, timeout_seconds, settings, declared, only, notes)
    snapshot = None if facts is None else facts.snapshot
    survey = _broker(asked_broker, until, timeout_seconds, settings, declared, snapshot, only, notes)
    if asked_settings is not None:
        _settings(asked_settings, until, settings, notes)
    if "supervisor" in only:
        _supervisor(supervisor_paths, settings, declared, notes)
    return Evidence(checkup=_checkup(notes), survey=survey, facts=facts)


def _unreadable(error: ConfigurationError, only: Collection[Source], notes: _Notes) -> Checkup:
    """Without settings or declarations there is nothing to compare anything with."""
    if "settings" not in only:
        is_setting = isinstance(error, InvalidSetting)
        notes.findings.append(
            Finding(
                code="settings.E001" if is_setting else "settings.E007",
                severity=Severity.PROBLEM,
                what=str(error),
                where="settings",
                why="worker processes refuse to start",
                mend="./manage.py queue_check --only settings",
            )
        )
    for source in only:
        if source != "settings":
            notes.gaps.append(Gap(source=source, what="the settings or declarations cannot be read"))
    return _checkup(notes)


def _table(
    asked: Asked[TableFacts] | None,
    until: float,
    timeout_seconds: float,
    settings: QueueSettings,
    declared: Sequence[QueueDeclaration],
    only: Collection[Source],
    notes: _Notes,
) -> TableFacts | None:
    """The database's facts, judged as far as they are wanted."""
    if asked is None:
        return None
    facts: TableFacts | None = None
    try:
        facts = asked.answer(until)
    except NoAnswer:
        problem = f"it has not answered within {timeout_seconds:g} s"
    except (DatabaseError, TransportUnavailable) as error:
        problem = " ".join(str(error).split())
    else:
        problem = "; ".join(facts.snapshot.problems) if facts.snapshot and facts.snapshot.problems else ""
    if problem:
        notes.findings.append(_unreachable_database(settings.database, problem))
    snapshot = None if facts is None else facts.snapshot
    if snapshot is None or snapshot.processes is None:
        why = (
            "migrations are not applied"
            if facts is not None and facts.unapplied
            else "the database does not tell"
        )
        notes.gaps += [Gap(source=source, what=why) for source in ("table", "workers") if source in only]
    if facts is not None and "table" in only:
        notes.findings += table.judge(
            declared, facts, queues.broken_modules, alias=settings.database, has_broker=settings.has_broker
        )
    if snapshot is not None and snapshot.processes is not None and "workers" in only:
        notes.findings += workers.judge(declared, snapshot, has_broker=settings.has_broker)
    return facts


def _unreachable_database(alias: str, problem: str) -> Finding:
    return Finding(
        code="table.unreachable",
        severity=Severity.PROBLEM,
        what=problem,
        where=f"database {alias}",
        why="workers hold what they have and take nothing new; delayed events, and all without a broker, are refused",
        mend=f"./manage.py check --database {alias}; mend the database; workers go on by themselves",
    )


def _broker(
    asked: "Asked[BrokerSurvey | None] | None",
    until: float,
    timeout_seconds: float,
    settings: QueueSettings,
    declared: Sequence[QueueDeclaration],
    snapshot: Snapshot | None,
    only: Collection[Source],
    notes: _Notes,
) -> BrokerSurvey | None:
    if asked is None:
        if "broker" in only:
            what = f"there is none to look at: QUEUE_URL is {settings.scheme}://"
            notes.gaps.append(Gap(source="broker", what=what))
        return None
    try:
        survey = asked.answer(until)
    except NoAnswer:
        notes.findings.append(
            _unreachable_broker("RabbitMQ", f"it has not answered within {timeout_seconds:g} s")
        )
        return None
    except AuthenticationRefused as error:
        notes.findings.append(
            Finding(
                code="broker.login-refused",
                severity=Severity.PROBLEM,
                what=f"it refuses the login: {error.problem}",
                where=error.what,
                why="events take the event table, and what is on the broker waits",
                mend="mend the user, password or vhost in QUEUE_URL or QUEUE_PASSWORD_FILE, or on the broker",
            )
        )
        return None
    except TransportUnavailable as error:
        notes.findings.append(_unreachable_broker(error.what, error.problem))
        return None
    if survey is None:
        return None
    live = None if snapshot is None else workers.live_by_queue(snapshot)
    notes.findings += broker.judge(declared, survey, live)
    notes.gaps += broker.gaps(survey)
    return survey


def _unreachable_broker(where: str, problem: str) -> Finding:
    return Finding(
        code="broker.unreachable",
        severity=Severity.PROBLEM,
        what=problem,
        where=where,
        why="events take the event table, and what is on the broker waits; nothing is lost",
        mend="on its host: rabbitmqctl status; workers and publishers come back by themselves",
    )


def _settings(asked: Asked[list[Finding]], until: float, settings: QueueSettings, notes: _Notes) -> None:
    """What the database's own checks add to those that need none."""
    try:
        found = asked.answer(until)
    except (NoAnswer, DatabaseError):
        what = f"version and options of database {settings.database}: it does not answer"
        notes.gaps.append(Gap(source="settings", what=what))
    else:
        notes.findings += [finding for finding in found if finding not in notes.findings]


def _supervisor(
    paths: Sequence[Path], settings: QueueSettings, declared: Sequence[QueueDeclaration], notes: _Notes
) -> None:
    configuration = programs.read(paths or programs.usual_paths())
    if not paths and not configuration.programs:
        what = (
            f"{', '.join(map(str, configuration.files))}: no program there runs process_queue"
            if configuration.files
            else "there is no configuration in the usual places"
        )
        notes.gaps.append(Gap(source="supervisor", what=f"{what}; name another with --supervisor-config"))
        configuration = programs.Configuration(unreadable=configuration.unreadable)
    notes.findings += supervisor.judge(
        declared, configuration, queues.broken_modules, has_broker=settings.has_broker
    )


def _checkup(notes: _Notes) -> Checkup:
    """In the order of the sources, what is worse first."""
    told = list(_without_echoes(notes.findings))
    order = [(source, severity) for source in SOURCES for severity in (Severity.PROBLEM, Severity.WARNING)]
    place: Callable[[Finding], int] = lambda finding: order.index(_place(finding))  # noqa: E731
    return Checkup(findings=tuple(sorted(told, key=place)), gaps=tuple(notes.gaps))


def _place(finding: Finding) -> tuple[Source, Severity]:
    source: Source = next(source for source in SOURCES if finding.code.startswith(f"{source}."))
    return source, finding.severity


def _without_echoes(findings: Sequence[Finding]) -> Iterator[Finding]:
    told = {(finding.code, finding.queue) for finding in findings}
    for finding in findings:
        if (_ECHOES.get(finding.code, ""), finding.queue) not in told:
            yield finding

"""Looks everywhere at once, under one deadline, and puts together what is found."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from django.db import Error as DatabaseError

from zerver.lib import clock
from zerver.lib.conf import QueueSettings, get_settings
from zerver.lib.database_trouble import is_refused, unavailable
from zerver.lib.errors import (
    AuthenticationRefused,
    BrokerMisnamed,
    ConfigurationError,
    InvalidSetting,
    PasswordUnreadable,
    TransportUnavailable,
)
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.transport import current
from zerver.lib.transport.base import Transport
from zerver.lib.transport.survey import BrokerSurvey
from zerver.monitoring.asking import Asked, TimeIsUp
from zerver.monitoring.checkup import broker, locks, programs, schedules, supervisor, table, workers
from zerver.monitoring.checkup import settings as project
from zerver.monitoring.checkup.facts import TableFacts, gather
from zerver.monitoring.checkup.finding import SOURCES, Checkup, Finding, Gap, Severity, Source

TIMEOUT_SECONDS = 10.0
_SEE_BROKER = "see that QUEUE_URL names its host, and its port for AMQP; on its host: rabbitmqctl status"
#: What follows from another finding, and says nothing new beside it: that one counts the same, and is no less severe.
_ECHOES = {"broker.no-consumers": "workers.none", "settings.E009": "table.unreachable"}


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
    # Those that need no database come first: without settings there is nothing to compare anything with.
    findings = project.look() if "settings" in only else []
    try:
        settings = get_settings()
        declared = [queue for queue in queues.all(test_queues=True) if names is None or queue.name in names]
        lane = current.fast_lane()
    except ConfigurationError as error:
        return Evidence(checkup=_unreadable(error, only, findings))
    examination = _Examination(
        only=only, settings=settings, declared=declared, timeout_seconds=timeout_seconds, findings=findings
    )
    return examination.run(lane, supervisor_paths, names)


def _unreadable(error: ConfigurationError, only: Collection[Source], findings: list[Finding]) -> Checkup:
    if "settings" not in only:
        findings = [
            Finding(
                code="settings.E001" if isinstance(error, InvalidSetting) else "settings.E007",
                severity=Severity.PROBLEM,
                what=str(error),
                place="settings",
                why="worker processes refuse to start",
                mend="./manage.py queue_check --only settings",
            )
        ]
    what = "the settings or declarations cannot be read"
    return _checkup(findings, [Gap(source=source, what=what) for source in only if source != "settings"])


@dataclass(slots=True, kw_only=True)
class _Examination:
    """One look at everything, and what it has found so far."""

    only: Collection[Source]
    settings: QueueSettings
    declared: Sequence[QueueDeclaration]
    timeout_seconds: float
    findings: list[Finding]
    gaps: list[Gap] = field(default_factory=list)

    def run(
        self, lane: Transport | None, supervisor_paths: Sequence[Path], names: Collection[str] | None
    ) -> Evidence:
        """All questions are put at once; the answers are judged one after the other."""
        until = clock.monotonic() + self.timeout_seconds
        alias = self.settings.database
        asked_table = (
            Asked(lambda: gather(alias, names)) if self._wants("table", "workers", "broker") else None
        )
        asked_broker = None
        if lane is not None and self._wants("broker"):
            asked_broker = Asked(partial(lane.survey, self.declared, self.timeout_seconds))
        asked_settings = Asked(lambda: project.look([alias])) if self._wants("settings") else None

        facts = None if asked_table is None else self._facts(asked_table, until)
        survey = None if asked_broker is None else self._survey(asked_broker, until)
        self._judge_database(facts, survey)
        if names is None:
            self._judge_schedules(facts)
        self._judge_broker(survey, facts, has_lane=lane is not None)
        if asked_settings is not None:
            self._settings(asked_settings, until)
        if self._wants("supervisor"):
            self._supervisor(supervisor_paths)
        return Evidence(checkup=_checkup(self.findings, self.gaps), survey=survey, facts=facts)

    def _wants(self, *sources: Source) -> bool:
        return any(source in self.only for source in sources)

    # -- the database

    def _facts(self, asked: Asked[TableFacts], until: float) -> TableFacts | None:
        alias = self.settings.database
        try:
            facts = locks.answer(asked, alias, until)
        except locks.HeldUp as held_up:
            what = f"{self._too_late()}{locks.told(held_up.holders)}"
            self.findings.append(table.unreachable(alias, what, locks.mend(held_up.holders)))
        except TransportUnavailable as trouble:
            self.findings.append(table.not_asked(alias, trouble))
        except DatabaseError as error:
            self.findings.append(table.not_asked(alias, unavailable(alias, error)))
        else:
            if facts.snapshot is not None and facts.snapshot.problems:
                self.findings.append(table.unreachable(alias, "; ".join(facts.snapshot.problems)))
            return facts
        return None

    def _judge_database(self, facts: TableFacts | None, survey: BrokerSurvey | None) -> None:
        snapshot = None if facts is None else facts.snapshot
        if snapshot is None or snapshot.processes is None:
            is_old = facts is not None and bool(facts.unapplied)
            why = "migrations are not applied" if is_old else "the database does not tell"
            self.gaps += [
                Gap(source=source, what=why) for source in ("table", "workers") if self._wants(source)
            ]
        has_broker = self.settings.has_broker
        if facts is not None and self._wants("table"):
            self.findings += table.judge(
                self.declared,
                facts,
                queues.broken_modules,
                alias=self.settings.database,
                has_broker=has_broker,
            )
        if not self._wants("workers") or snapshot is None or snapshot.processes is None:
            return
        if facts is not None and facts.unwritable is not None and facts.silences_workers:
            they = "may be unable to" if is_refused(facts.unwritable) else "cannot"
            what = f"they {they} say that they are there: {facts.unwritable}"
            self.gaps.append(Gap(source="workers", what=what))
        else:
            self.findings += workers.judge(self.declared, snapshot, survey, has_broker=has_broker)

    def _judge_schedules(self, facts: TableFacts | None) -> None:
        """They are of no queue: whoever asks of some is not told of them."""
        if self._wants("table") and facts is not None and facts.snapshot is not None:
            self.findings += schedules.judge(facts.snapshot.schedules or ())

    # -- the broker

    def _survey(self, asked: Asked[BrokerSurvey | None], until: float) -> BrokerSurvey | None:
        try:
            return asked.answer(until)
        except TimeIsUp:
            self.findings.append(_unreachable_broker("RabbitMQ", self._too_late()))
        except AuthenticationRefused as error:
            self.findings.append(_login_refused(error))
        except BrokerMisnamed as error:
            self.findings.append(_unreachable_broker(error.what, error.problem, error.mend))
        except TransportUnavailable as error:
            self.findings.append(_unreachable_broker(error.what, error.problem))
        return None

    def _judge_broker(self, survey: BrokerSurvey | None, facts: TableFacts | None, *, has_lane: bool) -> None:
        if not has_lane and self._wants("broker"):
            what = f"there is none to look at: QUEUE_URL is {self.settings.scheme}://"
            self.gaps.append(Gap(source="broker", what=what))
        if survey is None:
            return
        snapshot = None if facts is None else facts.snapshot
        live = None if snapshot is None else workers.live_by_queue(snapshot)
        paused = set() if snapshot is None else {queue.name for queue in snapshot.queues if queue.paused}
        consumers = None if snapshot is None else workers.consumers_by_queue(snapshot)
        self.findings += broker.judge(self.declared, survey, live, paused, consumers)
        self.gaps += broker.gaps(survey)

    # -- the rest

    def _settings(self, asked: Asked[list[Finding]], until: float) -> None:
        """What the database's own checks add to those that need none."""
        try:
            found = asked.answer(until)
        except (TimeIsUp, DatabaseError):
            what = f"version and options of database {self.settings.database}: it does not answer"
            self.gaps.append(Gap(source="settings", what=what))
        else:
            self.findings += [finding for finding in found if finding not in self.findings]

    def _supervisor(self, paths: Sequence[Path]) -> None:
        configuration = programs.read(paths or programs.usual_paths())
        if not paths and not configuration.programs:
            what = (
                f"{', '.join(map(str, configuration.files))}: no program there runs process_queue"
                if configuration.files
                else "there is no configuration in the usual places"
            )
            self.gaps.append(Gap(source="supervisor", what=f"{what}; name another with --supervisor-config"))
            # Workers run under something else: which programs there are says nothing of them.
            configuration = replace(configuration, files=())
        configuration = replace(
            configuration, programs=tuple(_of_shards(program) for program in configuration.programs)
        )
        self.findings += supervisor.judge(
            self.declared, configuration, queues.broken_modules, has_broker=self.settings.has_broker
        )

    def _too_late(self) -> str:
        return f"it has not answered within {self.timeout_seconds:g} s"


def _of_shards(program: programs.Program) -> programs.Program:
    """What it runs by a sharded queue's name, by the names of the shards."""
    found = tuple(queues.expand(program.queues))
    if found == program.queues:
        return program
    return replace(program, queues=found, is_one_worker=False)


def _unreachable_broker(where: str, problem: str, mend: str = _SEE_BROKER) -> Finding:
    return Finding(
        code="broker.unreachable",
        severity=Severity.PROBLEM,
        what=problem,
        place=where,
        why="events take the event table, and what is on the broker waits; nothing is lost",
        mend=f"{mend}; workers and publishers come back by themselves, but read QUEUE_URL only when they start",
    )


def _login_refused(error: AuthenticationRefused) -> Finding:
    is_asked = not isinstance(error, PasswordUnreadable)
    return Finding(
        code="broker.login-refused",
        severity=Severity.PROBLEM,
        what=f"it refuses the login: {error.problem}" if is_asked else f"nobody can log in: {error.problem}",
        place=error.what,
        why="events take the event table, and what is on the broker waits",
        mend="mend the user, password or vhost in QUEUE_URL or QUEUE_PASSWORD_FILE, or on the broker"
        if is_asked
        else "let QUEUE_PASSWORD_FILE name a file that is there and that this user may read; no restart is needed",
    )


def _checkup(findings: Sequence[Finding], gaps: Sequence[Gap]) -> Checkup:
    """In the order of the sources, what is worse first."""
    return Checkup(findings=tuple(sorted(_without_echoes(findings), key=_place)), gaps=tuple(gaps))


def _place(finding: Finding) -> tuple[int, bool]:
    source = next(index for index, source in enumerate(SOURCES) if finding.code.startswith(f"{source}."))
    return source, finding.severity is Severity.WARNING


def _without_echoes(findings: Sequence[Finding]) -> Iterator[Finding]:
    told = {(finding.code, finding.queue): finding.severity for finding in findings}
    for finding in findings:
        beside = told.get((_ECHOES.get(finding.code, ""), finding.queue))
        if beside not in (finding.severity, Severity.PROBLEM):
            yield finding

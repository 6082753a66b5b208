"""The broker against the declarations."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from zerver.lib.counted import counted, worker_processes
from zerver.lib.registry import QueueDeclaration
from zerver.lib.shard_names import family_of
from zerver.lib.transport.survey import (
    MIGRATION_PREFIX,
    USUAL_CONSUMER_TIMEOUT_SECONDS,
    BrokerSurvey,
    ListedQueue,
    QueueSurvey,
)
from zerver.monitoring.checkup.finding import Finding, Gap, Severity, expected

SUPPORTED = ((3, 10), (5,))

#: What a policy may say, and what the broker then does with events by itself.
_POLICIES = {
    "message-ttl": "events that wait longer are dead-lettered",
    "expires": "the queue is deleted with all its events when nobody uses it for so long",
    "max-length": "events beyond it are refused or dead-lettered",
    "max-length-bytes": "events beyond it are refused or dead-lettered",
    "delivery-limit": "events that come back so often, prefetched ones too, are dead-lettered",
}


def judge(
    declared: Sequence[QueueDeclaration],
    survey: BrokerSurvey,
    workers: Mapping[str, int] | None,
    paused: Collection[str] = (),
    consumers: Mapping[str, int] | None = None,
) -> Iterator[Finding]:
    """``workers``: live worker processes by queue; None when nobody can know. Nobody consumes what is ``paused``.
    ``consumers``: the most that those processes may be to the broker; as many as they are, unless said.
    """
    where = f"RabbitMQ at {survey.address}"
    yield from _of_all(survey, where)
    normal = {queue.name for queue in expected(declared, has_broker=True)}.difference(paused)
    for queue in declared:
        if queue.name not in survey.queues:
            continue
        found = survey.queues[queue.name]
        at_work = None if workers is None else workers.get(queue.name, 0)
        if found.is_there is None:
            yield _silent(found) if found.may_consume is None else _may_not_consume(found)
        elif not found.is_there:
            if queue.name in normal:
                yield _missing(found, at_work or 0)
        else:
            yield from _of_one(queue, found)
            if queue.name in normal:
                most = at_work if consumers is None else consumers.get(queue.name, 0)
                yield from _consumers(found, at_work, most)
    yield from map(_left_over_shard, survey.left_over)
    known = {queue.name for queue in declared} | {listed.name for listed in survey.left_over}
    yield from _not_declared(known, survey.ours or ())


def gaps(survey: BrokerSurvey) -> Iterator[Gap]:
    """What this survey does not show."""
    not_told = [
        name
        for name, found in survey.queues.items()
        if found.is_there and found.may_time_out and found.consumer_timeout_seconds is None
    ]
    if not_told:
        yield Gap(
            source="broker",
            what=f"consumer_timeout of {', '.join(not_told)}: the broker does not tell it (the management API of 3.12 "
            f"and newer does, of queues with consumers), {USUAL_CONSUMER_TIMEOUT_SECONDS:g} s are assumed; on its "
            "host: rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'",
        )
    if survey.ours is None and not survey.management_problem:
        yield Gap(
            source="broker",
            what="queues that nobody declares, policies, and whether enough nodes of quorum queues are there: "
            "set QUEUE_MANAGEMENT_URL",
        )
    not_compared = [
        name for name, found in survey.queues.items() if found.is_there and found.difference is None
    ]
    if not_compared:
        yield Gap(
            source="broker",
            what=f"arguments of {', '.join(not_compared)}: our user may not configure them; set QUEUE_MANAGEMENT_URL",
        )


def _of_all(survey: BrokerSurvey, where: str) -> Iterator[Finding]:
    lowest, beyond = SUPPORTED
    if survey.version_numbers and not lowest <= survey.version_numbers < beyond:
        yield Finding(
            code="broker.version",
            severity=Severity.PROBLEM if survey.version_numbers < lowest else Severity.WARNING,
            what=f"it is RabbitMQ {survey.version}",
            place=where,
            why="3.10 to 4.x are supported; what others do with events has not been tried",
            mend="run a version from 3.10 to 4.x",
        )
    if survey.alarms:
        yield Finding(
            code="broker.alarm",
            severity=Severity.PROBLEM,
            what=f"it is in an alarm: {'; '.join(survey.alarms)}",
            place=where,
            why="it takes no events; they take the event table until it is over",
            mend="give it memory or disk; on its host: rabbitmq-diagnostics alarms",
        )
    if survey.may_publish is False:
        yield Finding(
            code="broker.may-not-publish",
            severity=Severity.PROBLEM,
            what="our user may not write to the default exchange",
            place=where,
            why="every event takes the event table, and is carried at its pace",
            mend="rabbitmqctl set_permissions: let the user of QUEUE_URL write to amq.default",
        )
    if survey.management_problem:
        yield Finding(
            code="broker.management-unreachable",
            severity=Severity.PROBLEM,
            what=survey.management_problem,
            place="QUEUE_MANAGEMENT_URL",
            why="what only it tells is unknown: events in workers' hands, policies, queues that nobody declares",
            mend="mend QUEUE_MANAGEMENT_URL, or take it out of the settings",
        )


def _silent(found: QueueSurvey) -> Finding:
    return _of_queue(
        found,
        "broker.queue-silent",
        Severity.PROBLEM,
        what=found.problem,
        why="its events cannot be reached, and new ones take the event table",
        mend=f"on the broker's host: rabbitmq-queues quorum_status {found.name}; start the nodes that are down",
    )


def _may_not_consume(found: QueueSurvey) -> Finding:
    return _of_queue(
        found,
        "broker.may-not-consume",
        Severity.PROBLEM,
        what="our user may not read from it",
        why="no worker gets what is in it",
        mend="rabbitmqctl set_permissions: let the user of QUEUE_URL read from it",
    )


def _missing(found: QueueSurvey, workers: int) -> Finding:
    if found.may_configure is False:
        return _of_queue(
            found,
            "broker.queue-missing",
            Severity.PROBLEM,
            what="it is not on the broker, and our user may not declare it",
            why="its events take the event table",
            mend="rabbitmqctl set_permissions: let the user of QUEUE_URL configure it; or declare it there yourself",
        )
    if workers:
        return _of_queue(
            found,
            "broker.queue-missing",
            Severity.PROBLEM,
            what="it is not on the broker, although "
            f"{counted(workers, 'worker process is', 'worker processes are')} there",
            why="somebody has deleted it, or they cannot reach the broker; what was in it is gone",
            mend=f"read their logs; a restart of its workers declares it: supervisorctl restart NAME-{found.name}:*",
        )
    return _of_queue(
        found,
        "broker.queue-missing",
        Severity.WARNING,
        what="it is not on the broker; nobody has used it yet",
        why="the first publish or worker declares it; nothing is lost",
        mend=f"./manage.py process_queue --queue={found.name}",
    )


def _of_one(queue: QueueDeclaration, found: QueueSurvey) -> Iterator[Finding]:
    if found.difference:
        yield _of_queue(
            found,
            "broker.queue-arguments",
            Severity.PROBLEM,
            what=f"it differs from its declaration: {found.difference}",
            why="its workers will not start, and new events take the event table",
            mend=f"./manage.py queue_admin migrate {queue.name}",
        )
    if found.may_consume is False:
        yield _may_not_consume(found)
    for name, does in _POLICIES.items():
        if name in found.policy:
            yield _of_queue(
                found,
                "broker.policy",
                Severity.PROBLEM if name == "expires" else Severity.WARNING,
                what=f"a policy gives it {name}={found.policy[name]}",
                why=f"{does}, whatever its workers do",
                mend="rabbitmqctl list_policies; clear it, or let its pattern leave this queue out",
            )
    timeout_seconds = found.consumer_timeout_seconds
    if timeout_seconds is not None and queue.timeout_seconds > timeout_seconds / 2:
        yield _of_queue(
            found,
            "broker.consumer-timeout",
            Severity.PROBLEM,
            what=f"the broker takes an event away after {timeout_seconds:g} s, and a handler may take "
            f"{queue.timeout_seconds:g} s: over half of it, where the rest is for its wait and its settling",
            why="its workers refuse to start: events that are being handled would be given to others, and run twice",
            mend=f"raise the timeout to {USUAL_CONSUMER_TIMEOUT_SECONDS * 1000:.0f} (milliseconds), which is usual: "
            "consumer_timeout in rabbitmq.conf, or consumer-timeout in the queue's policy; or lower timeout_seconds",
        )


def _consumers(found: QueueSurvey, workers: int | None, most: int | None) -> Iterator[Finding]:
    if not found.consumers:
        yield _of_queue(
            found,
            "broker.no-consumers",
            Severity.PROBLEM if found.ready else Severity.WARNING,
            what=f"nobody consumes it on the broker, where {counted(found.ready, 'event is', 'events are')} ready",
            why="they wait until somebody does",
            mend=(
                f"its workers run and do not consume: read their logs; ./manage.py queue_explain {found.name}"
                if workers
                else f"start its workers: ./manage.py process_queue --queue={found.name}"
            ),
        )
    elif workers is not None and most is not None and found.consumers > most:
        yield _of_queue(
            found,
            "broker.foreign-consumers",
            Severity.WARNING,
            what=f"it has {counted(found.consumers, 'consumer')} on the broker, "
            f"and {worker_processes(workers)} in this database",
            why="somebody else may be taking its events: a deployment with another database, a forgotten script",
            mend="on the broker's host: rabbitmqctl list_consumers; one that has just died counts for a minute",
        )


def _not_declared(declared: set[str], ours: Sequence[ListedQueue]) -> Iterator[Finding]:
    for listed in ours:
        if listed.name.startswith(MIGRATION_PREFIX):
            yield _left_over(listed, declared)
        elif listed.name not in declared:
            yield _of_listed(
                listed,
                "broker.queue-unknown",
                queue=listed.name,
                what="no worker declares it",
                mend=f"deploy the code that declares it, or: ./manage.py queue_admin delete {listed.name}",
            )


def _left_over_shard(listed: ListedQueue) -> Finding:
    family = family_of(listed.name)
    return _of_listed(
        listed,
        "broker.shard-left-over",
        queue=listed.name,
        what=f"{family} had another number of shards",
        mend=f"pause {family}, and: ./manage.py queue_reshard {family}",
    )


def _left_over(listed: ListedQueue, declared: set[str]) -> Finding:
    name = listed.name.removeprefix(MIGRATION_PREFIX)
    if name not in declared:
        # The name of a queue that is too long for the prefix is cut, and ends in a digest.
        begin = name.rpartition("_")[0]
        name = next((queue for queue in sorted(declared) if begin and queue.startswith(begin)), name)
    return _of_listed(
        listed,
        "broker.migration-unfinished",
        queue=name,
        what="a migration that was broken off has left it there",
        mend=f"./manage.py queue_admin migrate {name}",
    )


def _of_listed(listed: ListedQueue, code: str, *, queue: str, what: str, mend: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.PROBLEM if listed.events else Severity.WARNING,
        what=f"it is on the broker with {counted(listed.events, 'event')}, and {what}",
        place=f"queue {listed.name}",
        why="nobody takes them" if listed.events else "it is of no use to anybody",
        mend=mend,
        queue=queue,
    )


def _of_queue(
    found: QueueSurvey, code: str, severity: Severity, *, what: str, why: str, mend: str
) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        what=what,
        why=why,
        mend=mend,
        queue=found.name,
    )

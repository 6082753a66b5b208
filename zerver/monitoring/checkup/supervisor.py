"""supervisord's programs against the declarations."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from zerver.lib.registry import QueueDeclaration
from zerver.monitoring.checkup.finding import Finding, Severity, expected
from zerver.monitoring.checkup.programs import Configuration, Program

#: After the handler: what is done reaches the database and the broker, what was not begun goes back.
DRAIN_GRACE_SECONDS = 15.0


def judge(
    declared: Sequence[QueueDeclaration],
    configuration: Configuration,
    broken_modules: Mapping[str, str],
    *,
    has_broker: bool,
) -> Iterator[Finding]:
    for path, why in configuration.unreadable:
        yield Finding(
            code="supervisor.unreadable",
            severity=Severity.PROBLEM,
            what=f"it cannot be read: {why}",
            place=str(path),
            why="what it runs is unknown; supervisord may not be able to read it either",
            mend=f"ls -l {path}; give the path that supervisord reads with --supervisor-config",
        )
    normal = expected(declared, has_broker=has_broker)
    by_name = {queue.name: queue for queue in declared}
    for program in configuration.programs:
        for name in program.queues:
            if name not in by_name:
                yield _unknown(program, name, broken_modules)
        run = normal if program.runs_all else [by_name[name] for name in program.queues if name in by_name]
        yield from _of_program(program, run)
    if configuration.files:
        yield from _counts(normal, configuration)
    yield from _same_number(configuration.programs)


def _unknown(program: Program, name: str, broken_modules: Mapping[str, str]) -> Finding:
    broken = ", ".join(sorted(broken_modules))
    return Finding(
        code="supervisor.unknown-queue",
        severity=Severity.PROBLEM,
        what=f"it runs queue {name}, and no worker declares it",
        place=program.where,
        why="its processes end at once, again and again",
        mend=(
            f"mend {broken}, which may declare it"
            if broken
            else "take the program out, then: supervisorctl update; or deploy the code that declares the queue"
        ),
        queue=name,
    )


def _of_program(program: Program, run: Sequence[QueueDeclaration]) -> Iterator[Finding]:
    slowest = max(run, key=lambda queue: queue.timeout_seconds, default=None)
    if slowest is not None:
        needed = slowest.timeout_seconds + DRAIN_GRACE_SECONDS
        if program.stop_wait_seconds < needed:
            yield _of(
                program,
                "supervisor.stopwaitsecs",
                what=f"stopwaitsecs is {program.stop_wait_seconds:g}, and a handler of {slowest.name} may take "
                f"{slowest.timeout_seconds:g} s",
                why="supervisord kills what still drains; its events come again",
                mend=f"stopwaitsecs={needed:g}",
            )
    if not program.worker_numbers:
        yield _of(
            program,
            "supervisor.no-process",
            what="numprocs is 0",
            why="supervisord starts nothing of it, and says nothing",
            mend="numprocs=1 or more, or take the program out",
        )
    if program.autorestart != "true":
        yield _of(
            program,
            "supervisor.autorestart",
            what=f"autorestart is {program.autorestart}",
            why="a worker that recycles ends with exit code 0, and would stay away",
            mend="autorestart=true",
        )
    if not program.kills_as_group:
        yield _of(
            program,
            "supervisor.killasgroup",
            what="killasgroup is not set",
            why="after a kill, what its handlers have started lives on, and nobody knows it",
            mend="killasgroup=true",
        )
    if program.has_shell and not program.stops_as_group:
        yield _of(
            program,
            "supervisor.stopasgroup",
            what="its command is a shell's, and stopasgroup is not set",
            why="the shell gets the TERM, and the worker none: it is killed instead of drained",
            mend="write exec before the command, or stopasgroup=true",
        )


def _counts(normal: Sequence[QueueDeclaration], configuration: Configuration) -> Iterator[Finding]:
    """On this host: others may run more."""
    workers: Counter[str] = Counter()
    for queue in normal:
        for program in configuration.programs:
            if program.runs_all or queue.name in program.queues:
                each = 1 if program.is_one_worker else queue.workers
                workers[queue.name] += each * len(program.worker_numbers)
    where = ", ".join(str(path) for path in configuration.files)
    for queue in normal:
        count = workers[queue.name]
        if not count:
            yield Finding(
                code="supervisor.no-program",
                severity=Severity.WARNING,
                what="no program runs it",
                place=f"queue {queue.name}; {where}",
                why="unless another host does, nobody takes its events",
                mend=f"add a program: process_queue --queue={queue.name} --worker_num=%(process_num)d; "
                "then: supervisorctl update",
                queue=queue.name,
            )
        elif count != queue.workers:
            yield Finding(
                code="supervisor.processes",
                severity=Severity.WARNING,
                what=f"workers by its programs: {count}; by its declaration: {queue.workers}",
                place=f"queue {queue.name}; {where}",
                why="fewer fall behind; more may be more than what they use can bear. Other hosts are not seen here",
                mend=f"numprocs={queue.workers}, or workers={count} in the declaration or in QUEUE_OVERRIDES",
                queue=queue.name,
            )


def _same_number(programs: Sequence[Program]) -> Iterator[Finding]:
    taken: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for program in programs:
        if program.is_one_worker:
            for number in program.worker_numbers:
                taken[program.queues[0], number or 0].append(program.where)
    for (queue, number), places in taken.items():
        if len(places) > 1:
            yield Finding(
                code="supervisor.same-number",
                severity=Severity.WARNING,
                what=f"{len(places)} worker processes of queue {queue} are number {number}",
                place=", ".join(dict.fromkeys(places)),
                why="they overwrite each other's .stats file",
                mend="--worker_num=%(process_num)d, and a numprocs_start for each program of the queue",
                queue=queue,
            )


def _of(program: Program, code: str, *, what: str, why: str, mend: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.WARNING,
        what=what,
        place=program.where,
        why=why,
        mend=f"{mend}; then: supervisorctl update",
        queue=program.queues[0] if len(program.queues) == 1 else "",
    )

"""``queue_restart``: the worker processes of this host, one after the other, and the scheduler."""

from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from zerver.lib.conf import get_settings
from zerver.lib.counted import worker_processes
from zerver.lib.registry import queues
from zerver.management.base import QueueCommand
from zerver.management.options import seconds
from zerver.management.restart.errors import NotBack
from zerver.management.restart.rolling import RollingRestart
from zerver.management.restart.supervisor import Program, State, Supervisor
from zerver.management.restart.supervisord import Supervisord, address_of
from zerver.management.restart.systemd import Systemd
from zerver.models import WorkerProcess
from zerver.monitoring.checkup.finding import expected

#: What is left as it is, and how that is told.
_LEFT = {
    State.STOPPED: "is stopped, and stays so",
    State.ENDED: "has ended, and stays so",
    State.GIVEN_UP: "does not run",
}
_MADE_BY = ": ./manage.py queue_config makes its configuration"


class Command(QueueCommand):
    """Exit codes: 0 all that were to run are back; 1 one is not, and the others were left as they are."""

    help = (
        "Restarts the worker processes of this host, one after the other, and then its scheduler; each must consume "
        "again before the next one's turn. Stops at the first that does not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--queue",
            action="append",
            default=[],
            metavar="NAME",
            help="only those of it; may be given again",
        )
        parser.add_argument(
            "--name", help="of several projects on this host, the one that queue_config calls so"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be restarted, and do nothing"
        )
        parser.add_argument(
            "--timeout",
            type=seconds,
            metavar="SECONDS",
            help="how long each may be away (as long as it may drain, and a minute)",
        )
        parser.add_argument(
            "--systemd", action="store_true", help="systemd keeps them running, not supervisord"
        )
        parser.add_argument(
            "-c",
            "--supervisor-config",
            type=Path,
            metavar="PATH",
            help="supervisord's configuration, where it is in no usual place",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["systemd"] and options["supervisor_config"]:
            self.usage("--supervisor-config is of supervisord, and --systemd says that it is not there")
        self.reach_database()
        supervisor = _supervisor(options)
        programs = self._wanted(supervisor, options["queue"], options["name"])
        now = {program: supervisor.condition(program) for program in programs}
        rolling = RollingRestart(supervisor, get_settings().database, options["timeout"])
        running = [program for program in programs if now[program].state not in _LEFT]
        _refuse_unfit(rolling, running)
        for program in programs:
            if program not in running:
                self.warn(
                    f"{program.name} ({program.about}) {_LEFT[now[program].state]}: {now[program].said}"
                )
        if options["dry_run"]:
            for program in running:
                self.stdout.write(f"{program.name} ({program.about}): {now[program].said}")
            return
        for number, program in enumerate(running, 1):
            self._restart(rolling, supervisor, program, number, len(running))
        self._tell_given_up(supervisor, [each for each in programs if now[each].state is State.GIVEN_UP])
        self.stdout.write(_told_restarted(running))

    def _restart(
        self, rolling: RollingRestart, supervisor: Supervisor, program: Program, number: int, count: int
    ) -> None:
        self._say(f"{number} of {count}: {program.name} ({program.about})")
        try:
            back = rolling.restart(program)
        except NotBack:
            for line in supervisor.last_lines(program):
                self.warn(f"  {line}")
            self.done = f"{number - 1} of {count} are back, {count - number} left as before"
            raise
        self._say(f"  {program.duty}s again after {back.seconds:.1f} s, as process {back.pid}")
        self.done = f"{number} of {count} are back"

    def _say(self, line: str) -> None:
        """At once: whoever looks at it wants to know what is going on."""
        self.stdout.write(line)
        self.stdout.flush()

    def _tell_given_up(self, supervisor: Supervisor, programs: Sequence[Program]) -> None:
        """Raises: CommandError where there are any."""
        if programs:
            names = ", ".join(program.name for program in programs)
            raise CommandError(
                self._with_done(f"{supervisor.name} has given up {names}; {supervisor.mend(programs[0])}")
            )

    # -- which

    def _wanted(self, supervisor: Supervisor, names: Sequence[str], prefix: str | None) -> list[Program]:
        """Raises: CommandError where there are none."""
        found = supervisor.programs()
        if not found:
            called = f" called {prefix}…" if prefix else ""
            raise CommandError(
                f"{supervisor.name} runs no process_queue{called}{_MADE_BY}; queue_check looks at what it has"
            )
        run = {name for program in found for name in program.queues}
        for name in names:
            self.check_queue_name(
                name, WorkerProcess.objects.using(get_settings().database), "worker processes"
            )
            if run.isdisjoint(queues.expand([name])):
                raise CommandError(f"--queue: {supervisor.name} runs no worker of queue {name!r}{_MADE_BY}")
        if not names:
            self._tell_missing(supervisor, run)
        return [program for program in found if not names or set(queues.expand(names)) & set(program.queues)]

    def _tell_missing(self, supervisor: Supervisor, run: Collection[str]) -> None:
        self.warn_of_broken_modules()
        declared = expected(queues.all(test_queues=False), has_broker=get_settings().has_broker)
        missing = [queue.name for queue in declared if queue.name not in run]
        if missing:
            self.warn(
                f"{supervisor.name} runs no worker of {', '.join(missing)}; unless another host does, nobody{_MADE_BY}"
            )


def _supervisor(options: dict[str, Any]) -> Supervisor:
    """Raises: SupervisorTrouble."""
    name = options["name"] or ""
    if options["systemd"]:
        return Systemd(name)
    return Supervisord(address_of(options["supervisor_config"]), name)


def _told_restarted(programs: Sequence[Program]) -> str:
    schedulers = [program.name for program in programs if program.is_scheduler]
    workers = len(programs) - len(schedulers)
    told = (
        [f"{worker_processes(workers)} restarted, each consuming again"] if workers or not schedulers else []
    )
    return "; ".join([*told, *(f"{name} restarted, and running" for name in schedulers)])


def _refuse_unfit(rolling: RollingRestart, programs: Sequence[Program]) -> None:
    """Before anything is restarted. Raises: CommandError."""
    for program in programs:
        if program.run.has_shell:
            raise CommandError(
                f"{program.name}: its command is a shell's, which would end and leave the worker; "
                "write exec before the command in its configuration"
            )
        stranger = rolling.stranger(program)
        if stranger is not None:
            raise CommandError(
                f"{program.name}: this database knows no process {stranger}; run this with the settings and the "
                "environment of the workers, and say --name or --queue where others are another project's"
            )

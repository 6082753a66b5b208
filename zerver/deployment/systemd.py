"""systemd's units. Sources: systemd.unit(5), systemd.service(5), sd_notify(3).

A template for each queue, and the number of a worker is its instance: ``shop-queue-greetings@2.service``. So every
queue has a stop timeout of its own, an instance is split nowhere, and one worker more is one word more in the target.
The scheduler is a unit of its own, ``shop-scheduler.service``.
"""

from collections.abc import Sequence

from zerver.deployment.programs import SCHEDULER_STOP_SECONDS, QueueProgram
from zerver.deployment.site import Site

#: What a worker that hangs has left to end itself, beyond the time that a drain may take: it knows which event it was,
#: and systemd does not.
WATCHDOG_GRACE_SECONDS = 60
#: For ``setup``. A boot waits no longer for a worker that does not come.
START_SECONDS = 300


def render(
    site: Site, programs: Sequence[QueueProgram], *, has_scheduler: bool, is_multi_threaded: bool = False
) -> dict[str, str]:
    """The text of each unit file by its name, the target first; ``is_multi_threaded``: one process for all queues."""
    if is_multi_threaded:
        name = f"{site.name}-queue-all.service"
        wanted, services = [name], {name: _all_in_one(site, programs)}
    else:
        wanted = [_instances(site, program) for program in programs]
        services = {
            f"{site.name}-queue-{program.queue}@.service": _of_queue(site, program) for program in programs
        }
    if has_scheduler:
        wanted.append(_scheduler_name(site))
        services[_scheduler_name(site)] = _scheduler(site)
    return {target_name(site): _target(site, wanted), **services}


def target_name(site: Site) -> str:
    return f"{site.name}-queues.target"


def _scheduler_name(site: Site) -> str:
    """No ``-queue-`` is in it: a queue may be called so."""
    return f"{site.name}-scheduler.service"


def is_ours(site: Site, name: str, text: str) -> bool:
    """Whether a unit file was written for this site, by whichever release."""
    is_named_so = name in (target_name(site), _scheduler_name(site)) or name.startswith(f"{site.name}-queue-")
    return is_named_so and text.startswith(_header(site))


def _instances(site: Site, program: QueueProgram) -> str:
    numbers = range(1, program.workers + 1)
    return " ".join(f"{site.name}-queue-{program.queue}@{number}.service" for number in numbers)


def _header(site: Site) -> str:
    """The first line, by which we know our own."""
    return f"# Of {site.name}, written by ./manage.py queue_config systemd: what is changed here is lost.\n"


def _target(site: Site, wanted: Sequence[str]) -> str:
    wants = "".join(f"Wants={names}\n" for names in wanted)
    return f"""\
{_header(site)}
[Unit]
Description=Queues of {site.name}
{wants}
[Install]
WantedBy=multi-user.target
"""


def _of_queue(site: Site, program: QueueProgram) -> str:
    command = f"process_queue --queue={program.queue} --worker_num=%i"
    return _worker(site, f"Worker %i of queue {program.queue}", command, program.stop_seconds)


def _all_in_one(site: Site, programs: Sequence[QueueProgram]) -> str:
    names = " ".join(program.queue for program in programs)
    slowest = max(program.stop_seconds for program in programs)
    return _worker(site, "Workers of all queues", f"process_queue --multi_threaded {names}", slowest)


def _worker(site: Site, what: str, command: str, stop_seconds: int) -> str:
    drop_ins = (
        f"# Of all queues' units: {site.name}-queue-.service.d/*.conf; of this one's: systemctl edit.\n"
    )
    watchdog_seconds = stop_seconds + WATCHDOG_GRACE_SECONDS
    return _service(site, what, command, stop_seconds, drop_ins, f"WatchdogSec={watchdog_seconds}\n")


def _scheduler(site: Site) -> str:
    """Without a watchdog: how late schedules are is what says that it hangs, and monitoring asks for that."""
    return _service(site, "Scheduler", "queue_scheduler", SCHEDULER_STOP_SECONDS)


def _service(
    site: Site, what: str, command: str, stop_seconds: int, drop_ins: str = "", watchdog: str = ""
) -> str:
    """``After``: at a shutdown, workers drain while their database and their broker are there; who is not here is left
    out of it by systemd. ``StartLimitIntervalSec``: a database that is away for a night must leave no worker failed.
    ``KillMode``: a TERM to all would reach what a handler has started, and the handler would fail.

    Nothing is forbidden that a handler may do today, such as sudo, sendmail, or a file for others in /tmp: what a
    project can do without it forbids in a drop-in of ``NAME-queue-.service.d``.
    """
    environment = "".join(f'Environment="{variable}={value}"\n' for variable, value in site.variables)
    return f"""\
{_header(site)}{drop_ins}
[Unit]
Description={what} of {site.name}
PartOf={target_name(site)}
Wants=network-online.target
After=network-online.target postgresql.service rabbitmq-server.service
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={site.user}
WorkingDirectory={site.directory}
{environment}ExecStart={site.python} {site.directory}/manage.py {command}
Nice={site.nice}
Restart=always
RestartSec=2
TimeoutStartSec={START_SECONDS}
TimeoutStopSec={stop_seconds}
{watchdog}\
KillMode=mixed
KillSignal=SIGTERM
StandardOutput=journal
SyslogIdentifier=%p
"""

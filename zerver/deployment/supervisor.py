"""supervisord's configuration. Source: https://supervisord.org/configuration.html, ``[program:x]``."""

from collections.abc import Sequence

from zerver.deployment.programs import SCHEDULER_STOP_SECONDS, QueueProgram
from zerver.deployment.site import Site

_HEADER = """\
; Written by puppet, or by ./manage.py queue_config supervisor: what is changed here is lost.
; No group holds these programs: an update of one restarts that one, and a group's would restart all.
"""


def render(
    site: Site, programs: Sequence[QueueProgram], *, has_scheduler: bool, is_multi_threaded: bool = False
) -> str:
    """A program for each queue; ``is_multi_threaded``: one process for all queues, a thread for each worker."""
    workers = (
        [_all_in_one(site, programs)] if is_multi_threaded else [_of_queue(site, each) for each in programs]
    )
    return _HEADER + "".join(workers) + (_scheduler(site) if has_scheduler else "")


def is_multiprocess(text: str) -> bool | None:
    """Whether a file of ours has a process for each worker; None: it is none of ours."""
    if "./manage.py queue_config supervisor" not in text:
        return None
    return " process_queue --multi_threaded " not in text


def _of_queue(site: Site, program: QueueProgram) -> str:
    name = f"{site.name}_events_{program.queue}"
    command, log, processes = f"process_queue --queue={program.queue}", f"events_{program.queue}", ""
    if program.workers > 1:
        command += " --worker_num=%(process_num)s"
        log += "_worker%(process_num)s"
        processes = (
            f"process_name={name}_worker%(process_num)s\nnumprocs={program.workers}\nnumprocs_start=1\n"
        )
    return _program(site, name, command, log, processes, program.stop_seconds)


def _all_in_one(site: Site, programs: Sequence[QueueProgram]) -> str:
    names = " ".join(program.queue for program in programs)
    slowest = max(program.stop_seconds for program in programs)
    command = f"process_queue --multi_threaded {names}"
    return _program(site, f"{site.name}_events", command, "events", "", slowest)


def _scheduler(site: Site) -> str:
    """No ``_events_`` is in its name: a queue may be called so."""
    return _program(
        site, f"{site.name}_scheduler", "queue_scheduler", "scheduler", "", SCHEDULER_STOP_SECONDS
    )


def _program(site: Site, name: str, command: str, log: str, processes: str, stop_seconds: int) -> str:
    """``startretries``: a database that is away for a night must leave no worker in FATAL. ``killasgroup`` without
    ``stopasgroup``: what a handler has started may end with its handler, and ends when the worker is killed.
    """
    return f"""
[program:{name}]
command=nice -n{site.nice} {site.python} {site.directory}/manage.py {command}
{processes}directory={site.directory}
user={site.user}
environment={",".join(f'{variable}="{value}"' for variable, value in site.variables)}
priority=300
autostart=true
autorestart=true
startsecs=5
startretries=1000000
stopsignal=TERM
stopwaitsecs={stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={site.log_directory}/{log}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""

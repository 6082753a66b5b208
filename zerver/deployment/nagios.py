"""What Nagios reads: its server's objects; and on the host of the workers, cron's entries and NRPE's commands.

cron runs the plugins as the workers' user, who may read their files and the broker's password, and leaves what they
find for NRPE, who may do nothing but read that. The thresholds stand in the declarations, which the plugins read.
Sources: https://assets.nagios.com/downloads/nagioscore/docs/nagioscore/4/en/objectdefinitions.html, crontab(5)
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from zerver.deployment.errors import UnfitValue
from zerver.deployment.plugin_options import check_broker_options, check_database_options
from zerver.deployment.programs import QueueProgram
from zerver.deployment.site import Site, check_path

_HEADER = (
    "# Of {name}; written by puppet, or by ./manage.py queue_config {kind}: what is changed here is lost.\n"
)
_OPTION = re.compile(r"--[a-z-]+(=[A-Za-z0-9_./:@,+=-]+)?")
_SECRET = re.compile(r"password=|://[^@/]*:[^@]*@", re.IGNORECASE)
_HOSTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(,[A-Za-z0-9][A-Za-z0-9_.-]*)*")
_EMAIL = re.compile(r"[A-Za-z0-9_.+-]+@[A-Za-z0-9.-]+")

DEFAULT_STATE_DIRECTORY = PurePosixPath("/var/lib/nagios_state")
DEFAULT_HOST = "localhost"
DEFAULT_EMAIL = "root@localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a plugin is to look at."""

    #: Of NRPE's command, and of the file that cron leaves.
    name: str
    description: str
    #: As Nagios runs it on the workers' host itself; see ``_commands``.
    local_command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """The plugins of a site, and how they are called. Raises: UnfitValue."""

    site: Site
    #: Beside its python unless said: where pip puts them.
    directory: PurePosixPath
    #: The workers' QUEUE_STATE_DIR.
    stats_directory: PurePosixPath
    #: That each run what is declared.
    hosts: int
    #: Of the plugins that ask the broker, and of the one that asks the database.
    broker_options: Sequence[str]
    database_options: Sequence[str]

    def __post_init__(self) -> None:
        check_path("plugin directory", self.directory)
        check_path("stats directory", self.stats_directory)
        if self.hosts < 1:
            raise UnfitValue("hosts", str(self.hosts), "give how many hosts run workers, 1 at least")
        for option in (*self.broker_options, *self.database_options):
            if _SECRET.search(option):
                # Not quoted: it would be in logs.
                raise UnfitValue(
                    "option", option.partition("=")[0], "it holds a password, and the file is none"
                )
            if not _OPTION.fullmatch(option):
                raise UnfitValue("option", option, "give --name=value, of letters, digits and _./:@,+=-")
        check_broker_options(self.broker_options)
        check_database_options(self.database_options)

    @property
    def queue_line(self) -> str:
        """Of all queues."""
        return self._line("check-rabbitmq-queue", self._stats, *self.broker_options)

    @property
    def consumers_line(self) -> str:
        return self._line(
            "check-rabbitmq-consumers", f"--hosts={self.hosts}", self._stats, *self.broker_options
        )

    @property
    def errors_line(self) -> str:
        return self._line("check-queue-worker-errors", *self.database_options)

    @property
    def _stats(self) -> str:
        return f"--stats-dir={self.stats_directory}"

    def _line(self, plugin: str, *options: str) -> str:
        declarations = f"--declarations=/etc/{self.site.name}/queues.json"
        return " ".join([f"{self.directory}/{plugin}", declarations, *options])


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """For whom a Nagios server watches, and whom it tells. Raises: UnfitValue."""

    name: str
    #: As the server calls the hosts of the workers; several with commas between them.
    host_name: str
    email: str

    def __post_init__(self) -> None:
        if not _HOSTS.fullmatch(self.host_name):
            raise UnfitValue(
                "host", self.host_name, "name it as Nagios does; several with commas between them"
            )
        if not _EMAIL.fullmatch(self.email):
            raise UnfitValue("email", self.email, "write it as operators@example.org")


def checks(name: str, programs: Sequence[QueueProgram]) -> Iterator[Check]:
    """One for each queue, and two for all of them."""
    for program in programs:
        yield Check(
            name=f"{name}_queue_{program.queue}",
            description=f"{name} queue {program.queue}",
            local_command=f"{name}_queue!{program.queue}",
        )
    yield Check(
        name=f"{name}_consumers",
        description=f"{name} consumers",
        local_command=f"{name}_consumers",
    )
    yield Check(
        name=f"{name}_worker_errors",
        description=f"{name} worker errors",
        local_command=f"{name}_worker_errors",
    )


def cron(plugins: Plugins, state_directory: PurePosixPath) -> str:
    """Every minute, in silence: what is found is in the files. One run looks at all queues, however many they are."""
    user, name = plugins.site.user, plugins.site.name
    return _HEADER.format(name=name, kind="nrpe") + "".join(
        f"* * * * * {user} {line} --state-file={state_directory}/{name}_{check}\n"
        for line, check in (
            (f"{plugins.queue_line} --per-queue", "queue"),
            (plugins.consumers_line, "consumers"),
            (plugins.errors_line, "worker_errors"),
        )
    )


def nrpe(plugins: Plugins, programs: Sequence[QueueProgram], state_directory: PurePosixPath) -> str:
    reader = f"{plugins.directory}/check_cron_file"
    return _HEADER.format(name=plugins.site.name, kind="nrpe") + "".join(
        f"command[{check.name}]={reader} {state_directory}/{check.name}\n"
        for check in checks(plugins.site.name, programs)
    )


def server(watch: Watch, programs: Sequence[QueueProgram], local: Plugins | None = None) -> str:
    """Commands, services and a contact. ``local``: Nagios runs the plugins itself, on the workers' host, and not by
    NRPE.
    """
    services = (_service(watch, check, is_local=local is not None) for check in checks(watch.name, programs))
    return (
        _HEADER.format(name=watch.name, kind="nagios")
        + "".join(_command(name, line) for name, line in _commands(watch.name, local))
        + _contact(watch)
        + _template(watch)
        + "".join(services)
    )


def _commands(name: str, local: Plugins | None) -> list[tuple[str, str]]:
    if local is None:
        return [(f"{name}_remote", "/usr/lib/nagios/plugins/check_nrpe -H $HOSTADDRESS$ -c $ARG1$")]
    return [
        (f"{name}_queue", f"{local.queue_line} --queue=$ARG1$"),
        (f"{name}_consumers", local.consumers_line),
        (f"{name}_worker_errors", local.errors_line),
    ]


def _command(name: str, line: str) -> str:
    return f"""
define command {{
    command_name {name}
    command_line {line}
}}
"""


def _contact(watch: Watch) -> str:
    """Commands and time period are those that Nagios comes with."""
    return f"""
define contact {{
    contact_name                  {watch.name}_operators
    alias                         Operators of {watch.name}
    email                         {watch.email}
    host_notification_period      24x7
    host_notification_options     d,u,r
    host_notification_commands    notify-host-by-email
    service_notification_period   24x7
    service_notification_options  w,u,c,r
    service_notification_commands notify-service-by-email
}}
"""


def _template(watch: Watch) -> str:
    """Thrice before anybody is told: a worker that is started anew is away for some seconds."""
    return f"""
define service {{
    name                  {watch.name}_service
    register              0
    host_name             {watch.host_name}
    check_period          24x7
    check_interval        1
    retry_interval        1
    max_check_attempts    3
    notification_period   24x7
    notification_interval 60
    contacts              {watch.name}_operators
}}
"""


def _service(watch: Watch, check: Check, *, is_local: bool) -> str:
    command = check.local_command if is_local else f"{watch.name}_remote!{check.name}"
    return f"""
define service {{
    use                 {watch.name}_service
    service_description {check.description}
    check_command       {command}
}}
"""

"""A private Nagios: in the foreground, as anybody, with a second for its minute."""

from __future__ import annotations

import getpass
import grp
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.servers import spawn
from tests.servers.spawn import ServerMissingError, ServerStartError
from tests.wait import wait_for

PACKAGE = "nagios4-core"
#: What Nagios comes with: the commands and times that contacts are told by.
_OBJECTS = Path("/etc/nagios4/objects")
_STANZA = re.compile(r"^(\w+) \{\n(.*?)^\t\}$", re.MULTILINE | re.DOTALL)
_SERVICES = "services.cfg"


class Nagios4(spawn.Server):
    """``start`` is for who has configured it; ``verify`` runs nothing."""

    def __init__(self) -> None:
        program = shutil.which("nagios4", path="/usr/sbin:/usr/bin")
        if program is None:
            raise ServerMissingError("nagios4", PACKAGE)
        self._program = program
        self.directory = spawn.make_directory("nagios4")
        self.log_path = self.directory / "output.log"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("spool", "results"):
            (self.directory / name).mkdir()
        self._write_main()
        self.define_hosts("localhost")
        self.configure("")

    def define_hosts(self, *names: str) -> None:
        (self.directory / "hosts.cfg").write_text(
            "".join(
                f"define host {{\n host_name {name}\n address 127.0.0.1\n max_check_attempts 1\n"
                " check_period 24x7\n contacts nobody\n notifications_enabled 0\n}\n"
                for name in names
            )
        )

    def configure(self, services: str) -> None:
        (self.directory / _SERVICES).write_text(services)

    def verify(self) -> str:
        """What ``nagios4 -v`` says."""
        done = subprocess.run(
            [self._program, "-v", self.directory / "nagios.cfg"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    def start(self) -> None:
        """Nothing, until there is something to watch; see ``run``."""

    def run(self) -> None:
        """Returns when it has written its first status."""
        self._process = spawn.spawn(
            [self._program, self.directory / "nagios.cfg"],
            env={"PATH": "/usr/bin:/bin"},
            log_path=self.log_path,
            cwd=self.directory,
        )
        wait_for(
            lambda: self.services() or self._process.poll() is not None, 30, "Nagios to write its status"
        )  # type: ignore[union-attr]
        if not self.services():
            raise ServerStartError("Nagios", self.log_path)

    def services(self) -> dict[str, dict[str, str]]:
        """From its status file, by description."""
        path = self.directory / "status.dat"
        text = path.read_text() if path.exists() else ""
        found = {}
        for kind, lines in _STANZA.findall(text):
            if kind == "servicestatus":
                said = dict(line.strip().split("=", 1) for line in lines.splitlines() if "=" in line)
                found[said["service_description"]] = said
        return found

    def close(self) -> None:
        if self._process is not None:
            spawn.end(self._process)
        spawn.remove_directory(self.directory)

    def _write_main(self) -> None:
        directory = self.directory
        lines = {
            "nagios_user": getpass.getuser(),
            "nagios_group": grp.getgrgid(os.getgid()).gr_name,
            "log_file": directory / "nagios.log",
            "object_cache_file": directory / "objects.cache",
            "precached_object_file": directory / "objects.precache",
            "status_file": directory / "status.dat",
            "status_update_interval": 1,
            "state_retention_file": directory / "retention.dat",
            "temp_file": directory / "nagios.tmp",
            "temp_path": directory / "spool",
            "lock_file": directory / "nagios.lock",
            "command_file": directory / "nagios.cmd",
            "query_socket": directory / "nagios.qh",
            "check_result_path": directory / "results",
            "check_external_commands": 0,
            "interval_length": 1,
            "service_check_timeout": 60,
            "execute_host_checks": 0,
            "enable_notifications": 0,
            "check_for_updates": 0,
            "use_syslog": 0,
            "illegal_macro_output_chars": "`~$&|'\"<>",
        }
        objects = [_OBJECTS / "commands.cfg", _OBJECTS / "timeperiods.cfg", directory / "contacts.cfg"]
        objects += [directory / "hosts.cfg", directory / _SERVICES]
        (directory / "contacts.cfg").write_text(
            "define contact {\n contact_name nobody\n"
            " host_notification_period 24x7\n service_notification_period 24x7\n"
            " host_notification_options n\n service_notification_options n\n"
            " host_notification_commands notify-host-by-email\n"
            " service_notification_commands notify-service-by-email\n}\n"
        )
        (directory / "nagios.cfg").write_text(
            "".join(f"cfg_file={path}\n" for path in objects)
            + "".join(f"{name}={value}\n" for name, value in lines.items())
        )

"""``puppet apply``, for real: into a directory of the test's own, without a server."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from pathlib import Path

from tests.servers.processes import REPOSITORY, run_project
from tests.servers.spawn import ServerMissingError

#: ``--detailed-exitcodes``.
NOTHING_CHANGED, CHANGED, FAILED_TO_COMPILE = 0, 2, 1
#: This bit: something could not be made so.
FAILED = 4
#: Whom files may belong to without being root.
USER = getpass.getuser()


def queue_config(*arguments: str, code: int = 0, **env: str) -> str:
    """What it says of this repository's project, which has a broker that is not asked; see ``run_project``."""
    whole = {"QUEUE_URL": "amqp://localhost/", **env}
    return run_project("queue_config", *arguments, env=whole, code=code)


class Puppet:
    """All that our classes write, and look at, is below ``root``."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("puppet") is None:
            raise ServerMissingError("puppet", "puppet")
        self._directory = directory
        self.modules = REPOSITORY / "puppet"
        self.root = directory / "root"
        for path in ("etc/supervisor/conf.d", "var/log"):
            (self.root / path).mkdir(parents=True)
        self.output = ""

    def apply(self, base: str = "", frontend: str = "") -> int:
        """The workers' classes, with further parameters as a manifest writes them; the exit code."""
        return self.apply_manifest(
            f"class {{ 'zulip::base': root => '{self.root}', manage_user => false, user => '{USER}', {base} }}\n"
            f"class {{ 'zulip::app_frontend': {frontend} }}\n"
        )

    def apply_manifest(self, text: str, *options: str) -> int:
        manifest = self._directory / "site.pp"
        manifest.write_text(text)
        done = subprocess.run(
            [
                *("puppet", "apply", "--detailed-exitcodes", "--color=false"),
                *("--modulepath", self.modules),
                *("--confdir", self._directory / "conf", "--vardir", self._directory / "var"),
                *options,
                manifest,
            ],
            env={**os.environ, "ZULIP_ROOT": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Of RabbitMQ, up to a dozen programs, each of which starts a virtual machine.
            timeout=300,
            check=False,
        )
        self.output = done.stdout
        return done.returncode

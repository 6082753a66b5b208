"""RabbitMQ's programs: those of this host, or those of another Debian in a root directory of its own."""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.servers import spawn
from tests.servers.spawn import ServerMissingError

#: The environment variable that names such a directory; ``scripts/rabbitmq-root`` makes one.
ROOT = "RABBITMQ_ROOT"
PACKAGE = "rabbitmq-server"

#: In each root.
LIBRARY = Path("/usr/lib/rabbitmq/lib")
#: What a server of another root shares with this host: kernel, terminals, and the directories that tests write to.
_SHARED = ("/proc", "/dev", *sorted({str(spawn.TEMPORARY), tempfile.gettempdir()}))
#: Its mounts are its own and end with it. ``exec`` throughout: the child's pid is the program's.
_ENTER = f"""set -e
for each in {shlex.join(_SHARED)}; do
  mkdir -p "$0$each"
  mount --rbind "$each" "$0$each"
done
exec /usr/sbin/chroot "$0" env --chdir="$PWD" "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Of one RabbitMQ, all of a version."""

    #: None: they are this host's.
    root: Path | None
    #: As it is called from within the root.
    directory: Path

    @classmethod
    def find(cls) -> Programs:
        """Raises: ServerMissingError on this host; FileNotFoundError where RABBITMQ_ROOT holds none."""
        named = os.environ.get(ROOT)
        root = Path(named).resolve() if named else None
        found = sorted(_outside(root, LIBRARY).glob("rabbitmq_server-*/sbin/rabbitmq-server"))
        if found:
            return cls(root=root, directory=LIBRARY / found[-1].parents[1].name / "sbin")
        if named:
            # Never skipped: who sets it means it.
            raise FileNotFoundError(f"{ROOT}={named} holds no RabbitMQ; make one: scripts/rabbitmq-root")
        raise ServerMissingError(PACKAGE, PACKAGE)

    @property
    def version(self) -> str:
        """``4.0.5``."""
        return self.directory.parent.name.rpartition("-")[2]

    @property
    def major_version(self) -> int:
        return int(self.version.partition(".")[0])

    def command(self, program: str, *arguments: str) -> list[str]:
        """Runs one of RabbitMQ's or Erlang's programs, in a working directory that both roots have."""
        inside = self.directory / program
        # Those of the server by their path: /usr/sbin/rabbitmqctl changes to the user rabbitmq, who has another cookie.
        called = str(inside) if _outside(self.root, inside).exists() else program
        if self.root is None:
            return [called, *arguments]
        # Root within, for who is nobody in particular outside.
        mapping = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", "--mount", *mapping, "sh", "-c", _ENTER, str(self.root), called, *arguments]


def _outside(root: Path | None, path: Path) -> Path:
    """Where this process finds what is called ``path`` within the root."""
    return path if root is None else root / path.relative_to("/")

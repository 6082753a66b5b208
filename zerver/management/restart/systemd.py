"""systemd, by ``systemctl`` and ``journalctl``. Tried with 252."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from zerver.lib.printable import one_line
from zerver.management.restart.errors import SupervisorTrouble
from zerver.management.restart.supervisor import LAST_LINES, Condition, Program, State, Supervisor, in_turn
from zerver.monitoring.checkup.programs import run_of

_ANSWER_SECONDS = 30.0
_PROPERTIES = "Id,ActiveState,SubState,Result,Job,MainPID,TimeoutStopUSec,ExecStart"
_COMMAND = re.compile(r"argv\[\]=(.*?) ; ignore_errors=")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|min|h|d|w|month|y)")
#: systemd.time(7). Units: seconds.
_UNITS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "min": 60,
    "h": 3_600,
    "d": 86_400,
    "w": 604_800,
    "month": 2_629_800,
    "y": 31_557_600,
}

#: A unit's properties, as ``systemctl show`` tells them.
_Shown = Mapping[str, str]


class Systemd(Supervisor):
    """``site``: whose units to see, as ``queue_config`` calls them; "" for those of all projects."""

    name = "systemd"

    def __init__(self, site: str = "") -> None:
        self._patterns = [f"{site or '*'}-{what}.service" for what in ("queue-*", "scheduler")]

    def programs(self) -> Sequence[Program]:
        found = []
        for shown in self._show(*self._patterns):
            command = _COMMAND.search(shown.get("ExecStart", ""))
            run = run_of(command[1]) if command else None
            if run:
                seconds = seconds_of(shown["TimeoutStopUSec"])
                found.append(Program(name=shown["Id"], run=run, stop_seconds=seconds))
        return in_turn(found)

    def condition(self, program: Program) -> Condition:
        [shown] = self._show(program.name)
        pid = int(shown.get("MainPID") or 0)
        said = f"{shown['ActiveState']} ({shown['SubState']})"
        if shown["Result"] != "success":
            said += f", {shown['Result']}"
        return Condition(state=state_of(shown), pid=pid or None, said=said)

    def restart(self, program: Program) -> None:
        _ask("systemctl", "restart", "--no-block", program.name)

    def start(self, program: Program) -> None:
        _ask("systemctl", "start", "--no-block", program.name)

    def last_lines(self, program: Program) -> Sequence[str]:
        log = ("journalctl", f"--unit={program.name}", f"--lines={LAST_LINES}", "--output=cat", "--no-pager")
        try:
            return _ask(*log, "--quiet").splitlines()
        except SupervisorTrouble as trouble:
            return [str(trouble)]

    def mend(self, program: Program) -> str:
        return (
            f"mend that; journalctl -u {program.name} tells more, and systemctl restart {program.name} "
            "starts it anew"
        )

    def _show(self, *names: str) -> list[_Shown]:
        text = _ask("systemctl", "show", "--all", *names, f"--property={_PROPERTIES}")
        return [dict(_pairs(stanza)) for stanza in text.split("\n\n") if stanza.strip()]


def state_of(shown: _Shown) -> State:
    match shown["ActiveState"]:
        case "active" | "reloading":
            return State.UP
        case "activating" | "deactivating":
            return State.COMING
        case "failed" if not shown.get("Job"):
            return State.GIVEN_UP
        case "inactive" if not shown.get("Job"):
            return State.STOPPED
        case _:
            return State.COMING  # a job waits to start it


def _pairs(stanza: str) -> Iterator[tuple[str, str]]:
    for line in stanza.splitlines():
        name, _, value = line.partition("=")
        yield name, value


def seconds_of(span: str) -> float:
    """As systemd writes spans of time: ``1min 30s``, ``infinity``."""
    if span == "infinity":
        return float("inf")
    return float(sum(float(number) * _UNITS[unit] for number, unit in _SPAN.findall(span)))


def _ask(program: str, *arguments: str) -> str:
    """Raises: SupervisorTrouble."""
    if shutil.which(program) is None:
        raise SupervisorTrouble(
            "systemd", f"there is no {program} on PATH", "leave --systemd out for supervisord"
        )
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise SupervisorTrouble(
            "systemd", f"{program} has said nothing for {_ANSWER_SECONDS:g} s", f"try {program} status"
        ) from error
    if done.returncode:
        said = one_line(Exception(done.stderr or f"exit code {done.returncode}"))
        raise SupervisorTrouble(
            "systemd", f"{program} {arguments[0]}: {said}", "run this as root, on the workers' host"
        )
    return done.stdout

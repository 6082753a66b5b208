"""The broker of this host, asked by rabbitmqctl: for root, who needs no login."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from zerver.lib.printable import one_line
from zerver.nagios.broker import Broker, Seen, missing, standstill, unled
from zerver.nagios.deadline import Deadline
from zerver.nagios.errors import cannot_ask, is_down

#: cron's PATH lacks the first.
_USUAL_PLACES = ("/usr/sbin", "/usr/lib/rabbitmq/bin")
#: EX_UNAVAILABLE and EX_TEMPFAIL, of sysexits.h: the node is not there, or does not answer.
_NO_NODE = (69, 75)

#: A quorum queue's states, as RabbitMQ names them.
_LEADERLESS = ("down", "minority")


class Rabbitmqctl(Broker):
    def __init__(self, virtual_host: str) -> None:
        self._virtual_host = virtual_host

    def look(self, queues: Sequence[str], deadline: Deadline) -> Mapping[str, Seen]:
        deadline.waits_for("rabbitmqctl")
        found = {str(item.get("name")): _seen(item) for item in self._listed(deadline)}
        return {queue: found.get(queue, missing(self._virtual_host)) for queue in queues}

    def _listed(self, deadline: Deadline) -> list[Mapping[str, Any]]:
        program = shutil.which(
            "rabbitmqctl", path=os.pathsep.join([os.environ.get("PATH", ""), *_USUAL_PLACES])
        )
        if program is None:
            raise cannot_ask(
                "rabbitmqctl is not here", "ask over AMQP: -H HOST, --username and --password-file"
            )
        child = subprocess.Popen(
            [
                *(program, "--quiet", "--timeout", str(max(1, int(deadline.seconds)))),
                *("list_queues", "--vhost", self._virtual_host, "--formatter", "json"),
                *("name", "messages_ready", "consumers", "state", "members", "online"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # For its wrapper starts it as a child of su: all of them are ended together, and su ends its own.
            start_new_session=True,
        )
        deadline.at_end = lambda: _end(child)
        out, err = child.communicate()
        if child.returncode:
            raise _failed(child.returncode, out + err)
        try:
            listed = json.loads(out)
        except (ValueError, RecursionError):
            listed = None
        if not isinstance(listed, list):
            raise cannot_ask(
                "rabbitmqctl says what is no JSON", "see rabbitmqctl list_queues --formatter json"
            )
        return [item for item in listed if isinstance(item, dict)]


def _seen(item: Mapping[str, Any]) -> Seen:
    ready, consumers, state = item.get("messages_ready"), item.get("consumers"), item.get("state")
    if why := standstill(item) or (str(state) if state in _LEADERLESS else ""):
        return unled(why)
    if type(ready) is not int or type(consumers) is not int:
        return Seen(problem="rabbitmqctl does not tell: see rabbitmq-diagnostics check_running")
    return Seen(ready=ready, consumers=consumers)


def _failed(code: int, output: bytes) -> Exception:
    said = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    told = one_line(ValueError(said[0] if said else "it says nothing"))
    if code in _NO_NODE:
        return is_down(
            f"rabbitmqctl cannot reach the broker ({code}: {told})",
            "start it: systemctl start rabbitmq-server",
        )
    return cannot_ask(
        f"rabbitmqctl fails ({code}: {told})", "run it as root or rabbitmq; or ask over AMQP, with -H HOST"
    )


def _end(child: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGTERM)

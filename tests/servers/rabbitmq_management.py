"""What a broker tells, and does, over HTTP: in milliseconds, where rabbitmqctl takes a second."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tests.servers.ports import HOST
from tests.wait import wait_for

USER, PASSWORD = "guest", "guest"


#: Straight to this host, whatever http_proxy says.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ManagementError(OSError):
    """The management API answered with an error status."""

    def __init__(self, method: str, path: str, status: int, answer: str) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status} {answer}")


class ManagementApi:
    """The management plugin of a broker on this host."""

    def __init__(self, port: int) -> None:
        self._management_port = port

    @property
    def management_address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self._management_port}"

    @property
    def management_url(self) -> str:
        """For QUEUE_MANAGEMENT_URL, user and password included."""
        return f"http://{USER}:{PASSWORD}@{self.management_address}"

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API: 3 to 45 ms.

        Raises: ManagementError (an OSError) with the broker's answer; another OSError when it does not answer.
        """
        request = urllib.request.Request(
            f"http://{self.management_address}/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
                "Content-Type": "application/json",
            },
        )
        try:
            with _opener.open(request, timeout=30) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            with error:
                raise ManagementError(
                    method, path, error.code, error.read().decode(errors="replace")
                ) from error
        return json.loads(answer) if answer else None

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """The name of a fresh vhost, deleted afterwards with all that is in it: isolation for 60 ms."""
        name = f"test-{secrets.token_hex(4)}"
        # A cluster that has just come up may not answer for once.
        wait_for(lambda: self._has_made(name), 30, f"vhost {name} to be made")
        self.permit(name, True)
        try:
            yield name
        finally:
            with suppress(OSError):  # a test may have killed the broker, and the vhost is nobody else's
                self.api("DELETE", f"/vhosts/{name}")

    def _has_made(self, vhost: str) -> bool:
        try:
            self.api("PUT", f"/vhosts/{vhost}")
        except TimeoutError:
            return False
        return True

    def permit(self, vhost: str, on: bool) -> None:
        """Everything, or nothing: then clients may still log in. ``vhost`` is a name or a URL.

        What a channel did before it may do for a while longer: the broker remembers (3.10.8).
        """
        names = ".*" if on else "^$"
        path = f"/permissions/{quote(_vhost_name(vhost), safe='')}/{USER}"
        self.api("PUT", path, dict.fromkeys(("configure", "write", "read"), names))

    def bar(self, vhost: str) -> None:
        """Until ``permit``, nobody may log in there; who is in may do nothing. ``vhost`` is a name or a URL."""
        self.api("DELETE", f"/permissions/{quote(_vhost_name(vhost), safe='')}/{USER}")

    def delete_queue(self, vhost: str, name: str) -> None:
        """With all that it holds. ``vhost`` is a name or a URL."""
        self.api("DELETE", f"/queues/{quote(_vhost_name(vhost), safe='')}/{quote(name, safe='')}")

    def queue(self, vhost: str, name: str) -> dict[str, Any]:
        """What the management API tells of a queue; ``vhost`` is a name or a URL.

        Its counts lag by about a second, and are absent (an empty dict: no such queue) at first: use ``wait_for``.
        """
        path = f"/queues/{quote(_vhost_name(vhost), safe='')}/{quote(name, safe='')}"
        try:
            return dict(self.api("GET", path))
        except ManagementError as error:
            if error.status != 404:
                raise
            return {}

    def queues(self, vhost: str) -> dict[str, dict[str, Any]]:
        """Every queue of a vhost, by name."""
        path = f"/queues/{quote(_vhost_name(vhost), safe='')}"
        return {queue["name"]: queue for queue in self.api("GET", path)}

    def can_store(self) -> bool:
        """Whether a queue of the usual arguments that is made now keeps a message: asked in some 30 ms."""
        name = f"probe-{secrets.token_hex(4)}"
        path = f"/queues/%2F/{name}"
        arguments = {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": name,
            "x-dead-letter-strategy": "at-least-once",
        }
        message = {"properties": {}, "routing_key": name, "payload": "x", "payload_encoding": "string"}
        wanted = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
        try:
            self.api("PUT", path, {"durable": True, "arguments": arguments})
            self.api("POST", "/exchanges/%2F/amq.default/publish", message)
            return len(self.api("POST", f"{path}/get", wanted)) == 1
        except ManagementError:
            return False
        finally:
            with suppress(ManagementError):
                self.api("DELETE", path)

    def close_all_connections(self) -> None:
        """The broker closes every client's connection (320 CONNECTION_FORCED)."""

        def are_closed() -> bool:
            try:
                self.api("DELETE", f"/connections/username/{USER}")
            except ManagementError as error:
                if error.status != 500:  # one that ends by itself just then makes it fail, among the others
                    raise
                return False
            return True

        wait_for(are_closed, 10, "every connection to be closed")

    def has_alarm(self) -> bool:
        try:
            self.api("GET", "/health/checks/local-alarms")
        except ManagementError as error:
            if error.status != 503:
                raise
            return True
        return False


def _vhost_name(vhost: str) -> str:
    if "://" not in vhost:
        return vhost
    return unquote(urlsplit(vhost).path.removeprefix("/"))

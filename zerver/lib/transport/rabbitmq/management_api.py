"""RabbitMQ's management API, for what AMQP cannot tell: reading only, and never over a redirect."""

import http
import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from typing import IO, Any

from django.views.decorators.debug import sensitive_variables

from zerver.lib.errors import PasswordUnreadable, TransportUnavailable
from zerver.lib.transport.rabbitmq.address import BrokerAddress

ANSWER_SECONDS = 10.0

_WHAT = "the broker's management API"
#: How a health check says that something is wrong.
_UNHEALTHY = http.HTTPStatus.SERVICE_UNAVAILABLE


def as_mapping(value: Any) -> Mapping[str, Any]:
    """An object of its answers. It writes an empty one as []."""
    return value if isinstance(value, dict) else {}


class ManagementApi:
    """``url`` is ``QUEUE_MANAGEMENT_URL``; what it lacks of a login is that of ``address``, asked for at every call.

    Every method raises TransportUnavailable.
    """

    def __init__(self, url: str, address: BrokerAddress) -> None:
        self._url = url.rstrip("/")
        self._address = address
        self._vhost = urllib.parse.quote(address.virtual_host, safe="")

    def queues(self) -> list[Mapping[str, Any]]:
        """The vhost's queues. Shape: at least name, type, arguments, durable each; counts as the API has them."""
        return _objects(self._get(f"/queues/{self._vhost}"))

    def alarms(self) -> list[str]:
        """What the nodes of the cluster are short of. Shape: ``memory on rabbit@one`` each; [] when all is well."""
        found = self._get("/health/checks/alarms", accepts=_UNHEALTHY)
        answer = as_mapping(found)
        alarms = _objects(answer.get("alarms"))
        if not alarms and answer.get("status") != "ok":
            # A proxy's own 503, say: then nobody knows.
            raise TransportUnavailable(_WHAT, "it does not tell of alarms")
        return sorted(f"{alarm.get('resource')} on {alarm.get('node')}" for alarm in alarms)

    def unacked(self) -> dict[str, int]:
        """By queue, what is in consumers' hands; a queue of which the API does not know it is missing."""
        found = _objects(self._get(f"/queues/{self._vhost}", "columns=name,messages_unacknowledged"))
        counts = {queue.get("name"): queue.get("messages_unacknowledged") for queue in found}
        return {
            name: count for name, count in counts.items() if isinstance(name, str) and isinstance(count, int)
        }

    def unacked_of(self, queue: str) -> int | None:
        """None where the API does not know it, or knows no such queue."""
        count = self.queue(queue, "messages_unacknowledged").get("messages_unacknowledged")
        return count if isinstance(count, int) else None

    def queue(self, name: str, *columns: str) -> Mapping[str, Any]:
        """One queue, as in ``queues``, or these columns of it."""
        quoted = urllib.parse.quote(name, safe="")
        query = f"columns={','.join(columns)}" if columns else ""
        return as_mapping(self._get(f"/queues/{self._vhost}/{quoted}", query))

    def consumer_timeouts(self) -> dict[str, float]:
        """By queue, how long its consumers may hold an event, the shortest of them; from 3.12 on. Units: seconds."""
        found: dict[str, float] = {}
        for consumer in _objects(
            self._get(f"/consumers/{self._vhost}", "columns=queue.name,consumer_timeout")
        ):
            queue, told_ms = consumer.get("queue"), consumer.get("consumer_timeout")
            if isinstance(queue, dict) and isinstance(told_ms, int):
                name = str(queue.get("name"))
                found[name] = min(told_ms / 1000, found.get(name, math.inf))
        return found

    @sensitive_variables()
    def _get(self, path: str, query: str = "", *, accepts: int = http.HTTPStatus.OK) -> Any:
        """A crash reporter shows nothing of this call: nearly all of its variables hold the login.

        ``accepts``: an error status whose answer is one all the same.
        """
        try:
            with _answer(_request(self._url, self._address, path, query), accepts) as response:
                return json.load(response)
        except http.client.InvalidURL:
            # Its text may quote a part of the password.
            raise TransportUnavailable(
                _WHAT, "QUEUE_MANAGEMENT_URL is no http://user:password@host:15672"
            ) from None
        except PasswordUnreadable as error:
            raise TransportUnavailable(_WHAT, f"{error.problem}; mend QUEUE_PASSWORD_FILE") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            # HTTPException: who answers there does not speak HTTP.
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            # From None: urllib's frames hold the login, and not every crash reporter heeds Django's decorators.
            raise TransportUnavailable(_WHAT, _told(error)) from None


def _told(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code == http.HTTPStatus.UNAUTHORIZED:
        # RabbitMQ says the same of a user that has no tag.
        return "it refuses the login (401): check user and password, and that the user has the tag monitoring"
    return str(error) or type(error).__name__


@sensitive_variables()
def _answer(request: urllib.request.Request, accepts: int) -> Any:
    """Raises: OSError, http.client.HTTPException."""
    try:
        return _opener.open(request, timeout=ANSWER_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != accepts:
            raise
        return error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The login belongs to the host that the operator named; urllib would carry it to any other."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


@sensitive_variables()
def _request(base: str, address: BrokerAddress, path: str, query: str) -> urllib.request.Request:
    """Raises: PasswordUnreadable."""
    url = urllib.parse.urlsplit(base)
    bare = url._replace(netloc=url.netloc.rpartition("@")[2], path=f"{url.path}/api{path}", query=query)
    request = urllib.request.Request(bare.geturl())  # noqa: S310 (the operator's own setting)
    # urllib does not take a login from the URL.
    login = ":".join(_login(url, address))
    request.add_unredirected_header("Authorization", "Basic " + b64encode(login.encode()).decode())
    return request


@sensitive_variables()
def _login(url: urllib.parse.SplitResult, address: BrokerAddress) -> tuple[str, str]:
    """User and password. Raises: PasswordUnreadable."""
    user = urllib.parse.unquote(url.username) if url.username else address.user
    if url.password is not None:
        return user, urllib.parse.unquote(url.password)
    if address.password_file is None and user != address.user:
        # A password in QUEUE_URL is that of the user beside it.
        return user, ""
    return user, address.current_password()


def _objects(found: Any) -> list[Mapping[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

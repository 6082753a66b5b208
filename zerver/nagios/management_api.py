"""The broker, asked by its management API: one question for all queues, and counts that lag some seconds."""

import http.client
import json
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from zerver.lib.printable import one_line
from zerver.nagios.broker import Broker, Place, Seen, missing, standstill, unled
from zerver.nagios.deadline import Deadline
from zerver.nagios.errors import cannot_ask, is_down

_HTTPS_PORT, _HTTP_PORT = 15671, 15672
_COLUMNS = "columns=name,messages_ready,consumers,leader,members,online"
#: A queue's first figures are there after 5 s at most, as long as its broker gathers any.
_FIGURES_SECONDS = 6.0
_MEND_LOGIN = "see --username and --password-file, and give the user the tag monitoring"


class ManagementApi(Broker):
    """No redirect and no proxy is followed: the login is for the host that was named."""

    def __init__(self, url: str, place: Place) -> None:
        self._url = urlsplit(url)
        self._place = place
        self._what = f"the management API at {url}"
        self._has_waited = False

    def look(self, queues: Sequence[str], deadline: Deadline) -> Mapping[str, Seen]:
        deadline.waits_for(self._what)
        found = self._by_name(deadline.seconds)
        lacks = any(queue in found and not _tells(found[queue]) for queue in queues)
        if lacks and not self._has_waited and deadline.seconds > _FIGURES_SECONDS:
            time.sleep(_FIGURES_SECONDS)
            self._has_waited = True
            found = self._by_name(deadline.seconds)
        # Where nothing has figures, it is the broker that gathers none.
        is_theirs = self._has_waited and any(map(_tells, found.values()))
        absent = missing(self._place.virtual_host)
        return {
            queue: _seen(found[queue], is_its_own=is_theirs) if queue in found else absent for queue in queues
        }

    def _by_name(self, seconds: float) -> Mapping[str, Mapping[str, Any]]:
        return {item["name"]: item for item in self._queues(seconds) if isinstance(item.get("name"), str)}

    def _queues(self, seconds: float) -> list[Mapping[str, Any]]:
        answer = self._get(f"/api/queues/{quote(self._place.virtual_host, safe='')}?{_COLUMNS}", seconds)
        if not isinstance(answer, list):
            raise cannot_ask(f"{self._what} answers with something else", "see --management-url")
        return [item for item in answer if isinstance(item, dict)]

    def _get(self, path: str, seconds: float) -> Any:
        login = f"{self._place.login.user}:{self._place.login.password()}"
        connection = self._connection(seconds)
        try:
            headers = {"Authorization": "Basic " + b64encode(login.encode()).decode()}
            connection.request("GET", self._url.path.rstrip("/") + path, headers=headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
        except ssl.SSLError as error:
            raise cannot_ask(
                f"{self._what} gets no further than TLS ({one_line(error)})", "see --cafile"
            ) from None
        except OSError as error:
            # Which of the two it is, nobody can tell from here.
            mend = "start the broker, or its plugin: rabbitmq-plugins enable rabbitmq_management"
            raise is_down(f"{self._what} cannot be reached ({error.strerror or error})", mend) from None
        except http.client.HTTPException:
            raise cannot_ask(f"{self._what} speaks no HTTP there", "see --management-url") from None
        finally:
            connection.close()
        return self._read(status, body)

    def _read(self, status: int, body: bytes) -> Any:
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            raise cannot_ask(f"{self._what} refuses the login ({status})", _MEND_LOGIN)
        if status == http.HTTPStatus.NOT_FOUND:
            raise cannot_ask(
                f"{self._what} does not know the vhost, or is none (404)", "see --vhost and the URL"
            )
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise is_down(f"{self._what} fails ({status})", "see the broker's log")
        try:
            return json.loads(body) if status == http.HTTPStatus.OK else None
        except (ValueError, RecursionError):
            return None

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, self._url.port or _HTTP_PORT, timeout=seconds)
        try:
            context = ssl.create_default_context(cafile=self._place.cafile)
        except OSError as error:
            problem = f"{self._place.cafile} is no file of certificates ({error.strerror or error})"
            raise cannot_ask(problem, "let --cafile name one that this user may read") from None
        return http.client.HTTPSConnection(
            host, self._url.port or _HTTPS_PORT, timeout=seconds, context=context
        )


def _tells(item: Mapping[str, Any]) -> bool:
    return type(item.get("messages_ready")) is int and type(item.get("consumers")) is int


def _seen(item: Mapping[str, Any], *, is_its_own: bool) -> Seen:
    """``is_its_own``: that it has no figures, for others have, and it was given the time."""
    if why := standstill(item):
        return unled(why)
    if _tells(item):
        return Seen(ready=item["messages_ready"], consumers=item["consumers"])
    if is_its_own:
        return unled("the management API has no figures of it")
    mend = f"ask again in some seconds, with -t above {_FIGURES_SECONDS:g}; or over AMQP, if that changes nothing"
    return Seen(problem=f"the management API does not tell of it yet: {mend}")

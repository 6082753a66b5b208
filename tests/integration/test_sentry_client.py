"""What leaves for Sentry: a real client of the SDK, with a transport of our own, in this process."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sentry_sdk
from msgspec import structs
from pytest_django import Settings
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from zerver.lib.errors import NotJson
from zerver.lib.event import Event
from zerver.lib.queue import queue_json_publish
from zerver.lib.redaction import MARK
from zerver.lib.registry import QueueDeclaration, queues
from zerver.monitoring.sentry import Sentry
from zerver.worker.outcomes import Dead

CANARY = "canary-5d21"
EVENT = Event(
    queue="ledger",
    message_id="m",
    body=b'{"n":1,"secret":"%s"}' % CANARY.encode(),
    published_at_ms=1,
    attempt=5,
)


class Collected(Transport):
    """Keeps the events that would be sent."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.events: list[dict[str, Any]] = []
        self.problem: Exception | None = None

    def capture_envelope(self, envelope: Envelope) -> None:
        if self.problem is not None:
            raise self.problem
        self.events += [json.loads(item.payload.get_bytes()) for item in envelope.items]


@pytest.fixture
def client() -> Iterator[Callable[..., Collected]]:
    """Makes a client with these options, for one test; without the integrations, which would stay in this process."""
    with sentry_sdk.isolation_scope() as scope:

        def make(**options: Any) -> Collected:
            transport = Collected()
            made = sentry_sdk.Client(
                "http://key@127.0.0.1:9/1",
                transport=transport,
                default_integrations=False,
                auto_enabling_integrations=False,
                **options,
            )
            scope.set_client(made)
            return transport

        yield make


@pytest.fixture
def queue() -> QueueDeclaration:
    return queues.lookup("ledger")


def fail(in_hand: object) -> None:
    raise ValueError(f"no: {in_hand}")


def caught(in_hand: object) -> ValueError:
    try:
        fail(in_hand)
    except ValueError as error:
        return error
    raise AssertionError


def test_without_a_client_nothing_is_watched_and_nothing_kept(queue: QueueDeclaration) -> None:
    error = caught(1)
    with Sentry().watching(queue, [EVENT]):
        assert Sentry().picture(error) is None
        Sentry().dead(EVENT, Dead("why"))
    assert error.__traceback__ is not None


def test_a_picture_keeps_no_frame(client: Callable[..., Collected], queue: QueueDeclaration) -> None:
    """Frames refer to those that called them, up to the journey's own, which holds the outcome: a circle."""
    client()

    class Large:
        pass

    def attempt() -> tuple[object, weakref.ref[Large]]:
        large = Large()
        try:
            try:
                fail(1)
            except ValueError as error:
                raise KeyError from error
        except KeyError as error:
            return Sentry().picture(error), weakref.ref(large)

    gc.disable()
    try:
        picture, large = attempt()
        assert picture is not None
        assert large() is None
    finally:
        gc.enable()


def test_before_send_gets_the_exception_and_has_the_last_word(
    client: Callable[..., Collected], queue: QueueDeclaration
) -> None:
    seen: list[Any] = []

    def before_send(event: Any, hint: Any) -> Any:
        seen.append((hint["exc_info"][1], '"vars"' in json.dumps(event), "zerver" in hint))
        return None if isinstance(hint["exc_info"][1], ValueError) else event

    transport = client(before_send=before_send, attach_stacktrace=True)
    error = caught(EVENT)
    with Sentry().watching(queue, [EVENT]):
        Sentry().dead(EVENT, Dead("no", "", Sentry().picture(error)))
    assert seen == [(error, False, False)]
    assert transport.events == []


def test_the_projects_list_of_errors_to_ignore_holds(
    client: Callable[..., Collected], queue: QueueDeclaration
) -> None:
    transport = client(ignore_errors=[ValueError])
    with Sentry().watching(queue, [EVENT]):
        Sentry().dead(EVENT, Dead("no", "", Sentry().picture(caught(1))))
    assert transport.events == []


@pytest.mark.parametrize(
    ("bodies", "redact", "has_variables"),
    [(False, (), False), (False, ("secret",), False), (True, (), True), (True, ("secret",), False)],
)
def test_variables_of_a_handlers_frames_leave_only_if_bodies_may(
    client: Callable[..., Collected],
    queue: QueueDeclaration,
    settings: Settings,
    bodies: bool,
    redact: tuple[str, ...],
    has_variables: bool,
) -> None:
    settings.QUEUE_SENTRY_BODIES = bodies
    transport = client(attach_stacktrace=True)
    with Sentry().watching(replace(queue, redact=redact), [EVENT]):
        sentry_sdk.capture_exception(caught(CANARY))
        sentry_sdk.capture_message(f"here is {CANARY}")
    captured, message = transport.events
    assert ('"vars"' in json.dumps(transport.events)) is has_variables
    said = MARK if redact else CANARY
    assert captured["exception"]["values"][0]["value"] == f"no: {said}"
    assert message["message"] == f"here is {said}"
    if redact:
        assert CANARY not in json.dumps(transport.events)


def test_what_one_event_left_is_not_sent_with_the_next(
    client: Callable[..., Collected], queue: QueueDeclaration
) -> None:
    transport = client()
    with Sentry().watching(queue, [EVENT]):
        sentry_sdk.add_breadcrumb(message="of the first")
        sentry_sdk.set_tag("of", "the first")
    with Sentry().watching(queue, [structs.replace(EVENT, message_id="n", attempt=1)]):
        sentry_sdk.capture_message("look")
    [event] = transport.events
    assert event["tags"] == {"queue": "ledger", "message_id": "n", "attempt": "1"}
    assert "of the first" not in json.dumps(event)


@pytest.mark.parametrize(("body", "shown"), [(b"\xff" + b"x" * 100_000, "\\xff"), (b'{"a":1}', '{"a":1}')])
def test_a_body_is_sent_whatever_it_is_and_never_all_of_a_large_one(
    client: Callable[..., Collected], queue: QueueDeclaration, settings: Settings, body: bytes, shown: str
) -> None:
    settings.QUEUE_SENTRY_BODIES = True
    transport = client()
    with Sentry().watching(queue, [EVENT]):
        Sentry().dead(structs.replace(EVENT, body=body), Dead("no"))
    told = transport.events[0]["contexts"]["event"]["body"]
    assert told.startswith(shown)
    assert len(told) < 20_000


def test_frames_that_publish_show_no_event_in_any_process(
    client: Callable[..., Collected], settings: Settings, queue: QueueDeclaration
) -> None:
    """As an integration of web servers captures what a view lets rise."""
    settings.QUEUE_URL = "immediate://"
    transport = client()
    with Sentry().watching(queue, [EVENT]):
        pass  # from here on the client is known
    with pytest.raises(NotJson) as refused:
        queue_json_publish("ledger", {"secret": CANARY, "n": object()})
    sentry_sdk.capture_exception(refused.value)
    frames = transport.events[0]["exception"]["values"][-1]["stacktrace"]["frames"]
    ours = [frame for frame in frames if frame["module"].startswith("zerver.")]
    assert len(ours) > 1
    assert not any("vars" in frame for frame in ours)


def test_a_transport_that_fails_fails_nothing_else(
    client: Callable[..., Collected], queue: QueueDeclaration
) -> None:
    transport = client()
    transport.problem = RuntimeError("no way out")
    with Sentry().watching(queue, [EVENT]):
        Sentry().dead(EVENT, Dead("no"))
    assert transport.events == []

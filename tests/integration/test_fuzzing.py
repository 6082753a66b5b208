"""Whatever comes in from outside, the outcome is a clear error or a failed event, and never an end of the work."""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import pika
import pytest
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pika.exceptions import ChannelClosedByBroker, UnsupportedAMQPFieldException
from pika.spec import BasicProperties
from pytest_django import Settings

from tests.integration.commands import run
from tests.integration.conftest import Spine, on_rabbitmq
from tests.integration.webhooks import SECRET, post
from tests.servers.databases import TestDatabase
from tests.wait import wait_for
from zerver.lib.conf import get_settings
from zerver.lib.errors import InvalidSetting, NotJson, WrongEventType
from zerver.lib.event import EventType, encode_headers
from zerver.lib.queue_stats import QueueStats, read_stats
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.properties import to_event
from zerver.management.event_lines import BadLine, read_events
from zerver.models import FailedEvent, WaitingEvent, WorkerProcess

#: Fixtures may be shared by all examples of a test: each leaves nothing that the next one would see.
thorough = settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
served = settings(thorough, max_examples=150)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_tokens = st.lists(
    st.sampled_from([*'{}[]",:\t 1eE.-\\utfn', "\\ud800", "\\u0000", "NaN", "1e999", '{"n":', "9" * 30]),
    max_size=30,
).map("".join)


@st.composite
def almost_json(draw: st.DrawFn) -> bytes:
    """JSON objects as others write them, with a few bytes put out of place."""
    body = bytearray(json.dumps(draw(st.dictionaries(st.text(max_size=5), _json, max_size=4))).encode())
    for _ in range(draw(st.integers(0, 3))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


bodies = st.binary(max_size=60) | _tokens.map(lambda text: text.encode()) | almost_json()


# -- what a broker delivers


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    headers=st.none() | st.dictionaries(st.text() | st.binary(), _values, max_size=5) | st.text(),
    message_id=st.none() | st.text() | st.binary(),
    timestamp=st.none() | st.integers(),
    body=st.binary(),
)
@thorough
def test_properties_of_any_kind_make_an_event_that_can_be_stored(
    headers: Any, message_id: Any, timestamp: Any, body: bytes
) -> None:
    properties = BasicProperties(headers=headers, message_id=message_id, timestamp=timestamp)
    event = to_event("parcels", properties, body)
    assert event.body == body
    stored = encode_headers(event.headers) + event.message_id
    assert "\x00" not in stored.encode().decode()
    assert event.attempt >= 1


class Parcel(TypedDict):
    n: int
    text: str


@given(bodies)
@thorough
def test_a_body_is_an_event_or_is_told_what_is_wrong_with_it(body: bytes) -> None:
    for event_type in (EventType(), EventType(Parcel)):
        problem, event = "", None
        try:
            event = event_type.decode("parcels", body)
        except (NotJson, WrongEventType) as error:
            problem = str(error)
        assert len(problem) < 1_000
        if not problem:
            assert isinstance(event, dict)
            json.dumps(event, allow_nan=False).encode()


_names = st.text(max_size=30) | st.sampled_from(
    ["x-attempt", "x-published-at-ms", "x-version", "traceparent", "x-death", "x-delivery-count", "CC"]
)
_sendable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=40)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=6,
)
_messages = st.lists(
    st.tuples(
        bodies,
        st.builds(
            BasicProperties,
            headers=st.none() | st.dictionaries(_names, _sendable, max_size=4),
            message_id=st.none() | st.text(max_size=60),
            timestamp=st.none() | st.integers(0, 2**63 - 1),
            content_type=st.none() | st.text(max_size=20),
            content_encoding=st.none() | st.sampled_from(["gzip", "utf-8"]),
            priority=st.none() | st.integers(0, 255),
            expiration=st.none() | st.just("3600000"),
            reply_to=st.none() | st.text(max_size=20),
            delivery_mode=st.none() | st.sampled_from([1, 2]),
        ),
    ),
    min_size=60,
    max_size=60,
)


@on_rabbitmq
@given(messages=_messages)
@settings(thorough, max_examples=4, phases=[Phase.generate])
def test_a_worker_settles_whatever_is_put_on_its_queue(
    spine: Spine, messages: list[tuple[bytes, BasicProperties]]
) -> None:
    """None of it ends the worker, and at the end nothing is left."""
    if not spine.processes:
        spine.work("--queue=noop")
        wait_for(lambda: "worker started" in spine.processes[0].output, 30, "the worker")
    before = _settled()
    sent = _send(spine.env["QUEUE_URL"], messages)
    wait_for(
        lambda: _settled() - before >= sent, 60, lambda: f"{sent} to be settled: {_settled() - before} are"
    )
    assert _settled() - before == sent
    spine.wait_until_settled("noop")
    [worker] = spine.processes
    assert worker.is_running()
    assert "Traceback" not in worker.output
    assert all(failed.error for failed in FailedEvent.objects.all())


def _settled() -> int:
    """How many events the worker has done with, one way or the other."""
    return sum(row.consumed + row.failed for row in WorkerProcess.objects.all())


def _send(url: str, messages: Iterable[tuple[bytes, BasicProperties]]) -> int:
    """As another client would; how many the broker took."""
    sent = 0
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        for body, properties in messages:
            try:
                properties.encode()
            except (UnsupportedAMQPFieldException, AssertionError, UnicodeError, ValueError):
                continue  # what cannot be written cannot come
            # The broker reads some headers itself (CC), and closes the channel over those.
            with suppress(ChannelClosedByBroker), connection.channel() as channel:
                channel.confirm_delivery()
                channel.basic_publish("", "noop", body, properties, mandatory=True)
                sent += 1
    return sent


# -- what an operator writes

#: Capitals that no word of ours is written with, and whatever may be out of place.
_CAPITALS = "ZXJKV"
_secret = st.text(st.sampled_from(_CAPITALS + "\u017e7 :,[]#&=+%$\\"), min_size=1, max_size=12)
_between = st.sampled_from(["@", "/", "?", ":", ",", "?heartbeat=", "&connection_timeout=", "?cafile="])


@given(scheme=st.sampled_from(["amqp", "amqps"]), parts=st.lists(_secret | _between, max_size=8))
@thorough
def test_no_error_quotes_anything_that_may_be_a_password(scheme: str, parts: list[str]) -> None:
    rest = "".join(parts)
    try:
        parse_address(f"{scheme}://{rest}")
    except InvalidSetting as error:
        told = "".join(traceback.format_exception(error))
        pieces = {rest[start : start + 3] for start in range(len(rest) - 2)}
        assert not [piece for piece in pieces if piece in told and not set(_CAPITALS).isdisjoint(piece)]


_url_words = ("amqp", "amqps", "db", "immediate", "h", "::1", "5672", "99999", "-1", "heartbeat", "cafile")
_url_parts = st.sampled_from([*_url_words, "://", "%2F", *":/@?&=,%[]# \n\x00ü"])


@given(url=st.text(max_size=20) | st.lists(_url_parts, max_size=10).map("".join))
@thorough
def test_any_text_is_a_queue_url_or_is_refused_by_the_settings_name(settings: Settings, url: str) -> None:
    settings.QUEUE_URL = url
    refusal = ""
    try:
        found = get_settings()
        assert found.scheme in {"amqp", "amqps", "db", "immediate"}
        if found.has_broker:
            assert all(host and 0 < port < 65_536 for host, port in parse_address(found.url).hosts)
    except InvalidSetting as error:
        refusal = str(error)
    assert not refusal or "QUEUE_URL" in refusal


# -- what stands in files


_STATS = QueueStats(
    queue="mail", worker_num=2, host="web1", pid=7, update_time=12.5, recent_average_consume_time=None,
    queue_last_emptied_timestamp=3.0, consumed=5, retried=1, failed=0, discarded=0, in_flight=1, unbegun=2,
    oldest_unbegun_seconds=0.5, lag_ms=None, breaker="",
)  # fmt: skip


@given(
    field=st.sampled_from(list(asdict(_STATS))),
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]),
)
@thorough
def test_a_field_of_another_kind_in_a_stats_file_is_refused_by_name(
    tmp_path: Path, field: str, value: object
) -> None:
    """Whoever reads a file may reckon with what is in it."""
    path = tmp_path / "mail.0.stats"
    path.write_text(json.dumps({**asdict(_STATS), field: value}))
    refusal, found = "", None
    try:
        found = getattr(read_stats(path), field)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert field in refusal
    else:
        assert found == value
        assert type(found) in {str, int, float, type(None)}
        assert not isinstance(found, float) or math.isfinite(found)


@given(bodies)
@thorough
def test_a_stats_file_of_any_bytes_is_refused_by_its_name(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "mail.0.stats"
    path.write_bytes(body)
    with pytest.raises(ValueError, match=r"mail\.0\.stats is no stats file"):
        read_stats(path)


_lines = st.lists(
    bodies.map(lambda body: body.replace(b"\n", b" "))
    | almost_json().map(lambda body: b"2026-03-04\t" + body),
    max_size=5,
)


@given(_lines)
@thorough
def test_a_line_is_an_event_or_is_named_with_what_is_wrong(lines: list[bytes]) -> None:
    for item in read_events(lines, "f"):
        assert item.place.startswith("f:")
        if isinstance(item, BadLine):
            assert item.problem
        else:
            json.dumps(item.event, allow_nan=False)


@given(lines=_lines)
@served
def test_a_file_for_queue_publish_is_published_whole_or_its_bad_lines_are_told(
    queue_database: TestDatabase, tmp_path: Path, lines: list[bytes]
) -> None:
    WaitingEvent.objects.all().delete()
    path = tmp_path / "events"
    path.write_bytes(b"\n".join(lines))
    ran = run("queue_publish", "noop", "--file", str(path), "--json")
    told = set(re.findall(re.escape(str(path)) + r":(\d+)", ran.err))
    written = {number for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()}
    assert (ran.code == 0) == (not told)
    assert {int(number) for number in told} <= written
    for row in WaitingEvent.objects.all():
        assert isinstance(json.loads(bytes(row.body)), dict)


# -- what anybody may send


_headers = st.dictionaries(
    st.sampled_from(["X-GitHub-Event", "X-GitHub-Delivery", "Transfer-Encoding"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=12),
)


@given(
    body=bodies,
    headers=_headers,
    is_signed=st.booleans(),
    signature=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80),
    content_type=st.sampled_from(["application/json"] * 5 + ["application/json; q=1", "text/plain", ";", ""]),
    source=st.sampled_from(["github"] * 5 + ["open", "nobody", "g%00", "%C3%BC"]),
)
@served
def test_a_webhook_is_stored_or_refused_and_said_so(
    queue_database: TestDatabase,
    client: Client,
    settings: Settings,
    body: bytes,
    headers: dict[str, str],
    is_signed: bool,
    signature: str,
    content_type: str,
    source: str,
) -> None:
    settings.WEBHOOK_SECRETS = {"github": SECRET, "open": ""}
    WaitingEvent.objects.all().delete()
    answer = post(
        client, body, source, content_type, signed=None if is_signed else signature, headers=headers
    )
    assert answer.status_code in {202, 400, 403, 404, 411, 413, 415}
    if answer.status_code == 202:
        event = WaitingEvent.objects.get()
        assert is_signed
        assert answer.json() == {"message_id": event.message_id}
        assert json.loads(bytes(event.body))["payload"] == json.loads(body)
    else:
        assert not WaitingEvent.objects.exists()
        assert len(answer.content) < 1_000

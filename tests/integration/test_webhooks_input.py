"""What may be sent to the webhook view: the rest is refused by its place, and never read without end."""

from datetime import UTC, datetime

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from tests.integration.webhooks import SECRET, post
from tests.servers.databases import TestDatabase
from zerver.contrib.activity.models import UserActivity
from zerver.contrib.webhooks import signature
from zerver.contrib.webhooks.models import IncomingWebhook
from zerver.models import WaitingEvent


@pytest.fixture(autouse=True)
def secrets(settings: Settings) -> None:
    settings.WEBHOOK_SECRETS = {"github": SECRET, "open": ""}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "$"),
        (b"   ", "$"),
        (b"[1, 2]", "$"),
        (b"null", "$"),
        (b'"text"', "$"),
        (b"{", "$"),
        (b"{} {}", "$"),
        (b'{"a": NaN}', "$"),
        (b'{"a": Infinity}', "$"),
        (b'{"a": 1e999}', "$"),
        (b"\xff\xfe{\x00}\x00", "$"),
        (b'{"a": "\xed\xa0\x80"}', "$"),
        (rb'{"a": "\ud800"}', "$"),
        (b"{'a': 1}", "$"),
        (b"payload=%7B%7D", "$"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "$"),
        (b"[" * 10_000 + b"]" * 10_000, "$"),
        (b'{"big": 123456789012345678901234567890}', "$.big"),
        (b'{"deep": ' + b"[" * 200 + b"]" * 200 + b"}", "$.deep[0]"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_by_its_place(
    client: Client, body: bytes, path: str
) -> None:
    answer = post(client, body)
    assert answer.status_code == 400
    assert answer.json()["path"].startswith(path)
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (rb'{"a": {"b": ["ok", "x\u0000y"]}}', "$.a.b[1]"),
        (rb'{"a": {"b\u0000": 1}}', "$.a"),
        (rb'{"' + b"k" * 500 + rb'": "\u0000"}', "$." + "k" * 198),
    ],
)
def test_a_character_that_no_text_column_holds_is_refused_before_it_is_accepted(
    queue_database: TestDatabase, client: Client, body: bytes, path: str
) -> None:
    answer = post(client, body)
    assert (answer.status_code, answer.json()["path"]) == (400, path)
    assert "NUL" in answer.json()["error"]
    assert not WaitingEvent.objects.exists()


def test_what_only_looks_like_that_character_is_stored(
    queue_database: TestDatabase, client: Client, settings: Settings
) -> None:
    settings.QUEUE_URL = "immediate://"
    assert post(client, rb'{"a": "\\u0000"}').status_code == 202
    assert IncomingWebhook.objects.get().payload == {"a": r"\u0000"}


@pytest.mark.parametrize("use_tz", [True, False])
def test_times_are_right_whatever_the_projects_time_zone_is(
    queue_database: TestDatabase, client: Client, settings: Settings, use_tz: bool
) -> None:
    settings.QUEUE_URL = "immediate://"
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "America/St_Johns"
    connections.close_all()  # PostgreSQL is told a connection's time zone when it opens
    assert post(client).status_code == 202
    assert post(client).status_code == 202
    stored, counted = IncomingWebhook.objects.latest("received_at"), UserActivity.objects.get()
    assert counted.last_visit == stored.received_at
    assert timezone.is_aware(stored.received_at) is use_tz
    received_at = stored.received_at if use_tz else timezone.make_aware(stored.received_at)
    assert abs((datetime.now(UTC) - received_at).total_seconds()) < 60


@pytest.mark.django_db
@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""]
)
def test_another_content_type_is_refused(client: Client, content_type: str) -> None:
    answer = post(client, content_type=content_type)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


def test_a_charset_after_the_content_type_is_fine(queue_database: TestDatabase, client: Client) -> None:
    assert post(client, content_type="application/json; charset=utf-8").status_code == 202


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["X-GitHub-Event", "X-GitHub-Delivery"])
@pytest.mark.parametrize("value", ["a b", "x" * 101, "é", "a\x00b", "<script>"])
def test_a_header_that_no_column_could_hold_is_refused(client: Client, name: str, value: str) -> None:
    answer = post(client, headers={name: value})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(name)


@pytest.mark.django_db
def test_a_webhook_without_an_event_name_is_refused(client: Client) -> None:
    answer = post(client, headers={"X-GitHub-Event": ""})
    assert (answer.status_code, answer.json()["error"][:14]) == (400, "X-GitHub-Event")


def sized(length: int) -> bytes:
    return b'{"a":"' + b"x" * (length - len(b'{"a":""}')) + b'"}'


def test_the_limit_is_for_the_event_so_the_body_may_be_as_long_as_fits(
    queue_database: TestDatabase, client: Client, settings: Settings
) -> None:
    settings.QUEUE_MAX_EVENT_BYTES = 2000
    room = 2000 - len(b'{"source":"github","event":"push","payload":}')
    assert post(client, sized(room + 1)).status_code == 413
    assert not WaitingEvent.objects.exists()
    assert post(client, sized(room)).status_code == 202
    assert len(bytes(WaitingEvent.objects.get().body)) == 2000


def test_numbers_that_grow_when_written_out_cannot_slip_over_the_limit(
    queue_database: TestDatabase, client: Client, settings: Settings
) -> None:
    settings.QUEUE_MAX_EVENT_BYTES = 2000
    answer = post(client, b'{"a":[' + b",".join([b"1E9"] * 400) + b"]}")
    assert answer.status_code == 413
    assert not WaitingEvent.objects.exists()


class Endless:
    """A body that must not be read further than a bound."""

    def __init__(self, bound: int) -> None:
        self.read_bytes = 0
        self._bound = bound

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= self._bound, f"{size} bytes asked for at once"
        self.read_bytes += size
        assert self.read_bytes <= self._bound
        return b"x" * size

    readline = read


@pytest.mark.django_db
def test_a_claimed_length_over_the_limit_is_refused_before_anything_is_read(
    client: Client, settings: Settings
) -> None:
    settings.QUEUE_MAX_EVENT_BYTES = 1000
    endless = Endless(0)
    answer = client.generic(
        "POST",
        "/webhooks/github/",
        headers={"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + "0" * 64},
        CONTENT_TYPE="application/json",
        CONTENT_LENGTH=str(10**12),
        **{"wsgi.input": endless},
    )
    assert answer.status_code == 413
    assert endless.read_bytes == 0


@pytest.mark.django_db
@pytest.mark.parametrize("claimed", ["", "nonsense", "-1"])
def test_a_body_without_a_usable_length_is_not_read_without_end(client: Client, claimed: str) -> None:
    answer = client.generic(
        "POST",
        "/webhooks/github/",
        headers={
            "X-GitHub-Event": "push",
            "X-Hub-Signature-256": signature.sign(SECRET, b""),
            "Transfer-Encoding": "chunked",
        },
        CONTENT_TYPE="application/json",
        CONTENT_LENGTH=claimed,
        **{"wsgi.input": Endless(0)},
    )
    assert answer.status_code == 411
    assert "length" in answer.json()["error"]

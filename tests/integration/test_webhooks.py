"""The webhook view and its worker: what is accepted is safe, what is not is told why, whatever is sent."""

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from tests.servers.databases import TestDatabase
from zerver.contrib.activity.models import UserActivity
from zerver.contrib.webhooks import signature
from zerver.contrib.webhooks.models import IncomingWebhook
from zerver.models import WaitingEvent

SECRET = "a secret of the tests"
PUSH = {"ref": "refs/heads/main", "sender": {"login": "octocat"}}


@pytest.fixture(autouse=True)
def secrets(settings: Settings) -> None:
    settings.WEBHOOK_SECRETS = {"github": SECRET, "open": ""}


@pytest.fixture
def immediate(settings: Settings) -> None:
    settings.QUEUE_URL = "immediate://"


def post(
    client: Client,
    body: bytes | dict[str, Any] = PUSH,
    source: str = "github",
    content_type: str = "application/json",
    signed: str | None = None,
    headers: dict[str, str] | None = None,
) -> Any:
    """POST as GitHub would; headers that are empty are left out."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": signature.sign(SECRET, raw) if signed is None else signed,
        **(headers or {}),
    }
    return client.post(
        f"/webhooks/{source}/",
        raw,
        content_type=content_type,
        headers={name: value for name, value in sent.items() if value},
        # Django's client leaves it out when there is no body.
        CONTENT_TYPE=content_type,
    )


# -- the way of a webhook


def test_a_signed_webhook_is_published_and_answered_with_its_message_id(
    queue_database: TestDatabase, client: Client
) -> None:
    answer = post(client, headers={"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"})
    assert answer.status_code == 202
    event = WaitingEvent.objects.get()
    assert answer.json() == {"message_id": event.message_id}
    assert event.queue == "incoming_webhooks"
    assert json.loads(bytes(event.body)) == {
        "source": "github",
        "event": "push",
        "delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "payload": PUSH,
    }


def test_a_webhook_without_a_delivery_id_is_published_without_one(
    queue_database: TestDatabase, client: Client
) -> None:
    assert post(client).status_code == 202
    assert "delivery" not in json.loads(bytes(WaitingEvent.objects.get().body))


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_the_worker_stores_the_webhook_and_counts_its_senders_activity(client: Client) -> None:
    message_id = post(client, headers={"X-GitHub-Delivery": "d-1"}).json()["message_id"]
    stored = IncomingWebhook.objects.get()
    assert (stored.message_id, stored.source, stored.event, stored.delivery) == (
        message_id,
        "github",
        "push",
        "d-1",
    )
    assert stored.payload == PUSH
    assert abs((timezone.now() - stored.received_at).total_seconds()) < 60
    counted = UserActivity.objects.get()
    assert (counted.user, counted.client, counted.query, counted.count) == ("octocat", "github", "push", 1)
    assert counted.last_visit == stored.received_at


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_a_webhook_that_names_no_sender_is_stored_and_counts_for_nobody(client: Client) -> None:
    assert post(client, {"zen": "Keep it logically awesome."}).status_code == 202
    assert IncomingWebhook.objects.get().sender == ""
    assert not UserActivity.objects.exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_a_delivery_that_is_sent_again_is_accepted_again_and_stored_once(client: Client) -> None:
    for _ in range(3):
        assert post(client, headers={"X-GitHub-Delivery": "d-1"}).status_code == 202
    assert IncomingWebhook.objects.count() == 1
    assert UserActivity.objects.get().count == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_webhooks_without_delivery_ids_are_all_different(client: Client) -> None:
    for _ in range(3):
        assert post(client).status_code == 202
    assert IncomingWebhook.objects.count() == 3


def test_of_two_workers_that_store_one_delivery_at_once_one_does(queue_database: TestDatabase) -> None:
    answers: list[bool] = []
    gate = threading.Barrier(2)

    def store(number: int) -> None:
        webhook = IncomingWebhook(
            message_id=f"message-{number}",
            source="github",
            event="push",
            delivery="d-1",
            payload=PUSH,
            received_at=timezone.now(),
        )
        gate.wait(10)
        try:
            answers.append(IncomingWebhook.objects.store_once(webhook))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=store, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, True]
    assert IncomingWebhook.objects.count() == 1


# -- who may


@pytest.mark.parametrize(
    "signed",
    [
        signature.sign("another secret", json.dumps(PUSH).encode()),
        signature.sign(SECRET, b"another body"),
        signature.sign("", json.dumps(PUSH).encode()),
        "sha256=" + "0" * 64,
        "sha256=" + "0" * 63,
        "sha256=" + "g" * 64,
        "sha256=",
        "sha1=" + "0" * 40,
        "sha256=" + "é" * 64,
        "\u0661" * 71,
        "0" * 100_000,
        " ",
    ],
)
def test_a_wrong_signature_is_refused_and_nothing_is_published(
    queue_database: TestDatabase, client: Client, signed: str
) -> None:
    answer = post(client, signed=signed)
    assert answer.status_code == 403
    assert "X-Hub-Signature-256" in answer.json()["error"]
    assert not WaitingEvent.objects.exists()


@pytest.mark.django_db
def test_a_webhook_without_a_signature_is_refused(client: Client) -> None:
    raw = json.dumps(PUSH).encode()
    answer = client.post("/webhooks/github/", raw, "application/json", headers={"X-GitHub-Event": "push"})
    assert answer.status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize("source", ["unknown", "open", "GitHub", "x" * 500])
def test_unknown_sources_and_sources_without_a_secret_look_the_same(client: Client, source: str) -> None:
    # An empty secret would let anybody sign.
    answer = post(client, source=source, signed=signature.sign("", json.dumps(PUSH).encode()))
    assert (answer.status_code, answer.json()) == (404, {"error": "no such webhook source"})


@pytest.mark.django_db
def test_no_answer_and_no_log_line_holds_the_secret(
    client: Client, caplog: pytest.LogCaptureFixture, settings: Settings
) -> None:
    settings.QUEUE_MAX_EVENT_BYTES = 100
    answers = [
        post(client, signed="sha256=" + "0" * 64),
        post(client, b"["),
        post(client, b"x" * 200),
        post(client, source="unknown"),
    ]
    assert all(400 <= answer.status_code < 500 for answer in answers)
    assert SECRET not in "".join(answer.text for answer in answers) + caplog.text


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "options"])
def test_only_post_is_allowed(client: Client, method: str) -> None:
    assert getattr(client, method)("/webhooks/github/").status_code == 405


def test_a_csrf_check_does_not_stand_in_the_way(queue_database: TestDatabase) -> None:
    assert post(Client(enforce_csrf_checks=True)).status_code == 202


# -- what is sent


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


# -- how much is sent


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


# -- when it can be stored nowhere


@pytest.fixture
def without_event_table(queue_database: TestDatabase) -> None:
    """The database is of no use: what is left of it after somebody forgot to migrate."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_event RENAME TO zerver_event_gone")


@pytest.mark.usefixtures("without_event_table")
def test_what_can_be_stored_nowhere_is_not_accepted_and_may_be_sent_again(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = post(client)
    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0
    assert answer.json() == {"error": "the event could not be stored; send it again"}
    assert "incoming_webhooks" in caplog.text
    assert "octocat" not in caplog.text

"""The webhook view and its worker: what is accepted is safe, what is not is told why, whoever sends it."""

import json
import threading

import pytest
from django.db import connection, connections
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from tests.integration.webhooks import PUSH, SECRET, post
from tests.servers.databases import TestDatabase
from zerver.contrib.activity.models import UserActivity
from zerver.contrib.webhooks import signature
from zerver.contrib.webhooks.models import IncomingWebhook
from zerver.models import WaitingEvent


@pytest.fixture(autouse=True)
def secrets(settings: Settings) -> None:
    settings.WEBHOOK_SECRETS = {"github": SECRET, "open": ""}


@pytest.fixture
def immediate(settings: Settings) -> None:
    settings.QUEUE_URL = "immediate://"


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

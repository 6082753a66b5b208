"""What the webhook app decides without a database."""

import pytest
from pytest_django import Settings

from zerver.contrib.webhooks.conf import check_secrets, secret_of
from zerver.contrib.webhooks.queue_processors import sender_login


def test_a_source_with_an_empty_secret_has_none(settings: Settings) -> None:
    settings.WEBHOOK_SECRETS = {"github": "s3cret", "open": ""}
    assert secret_of("github") == "s3cret"
    assert secret_of("open") is None
    assert secret_of("unknown") is None


def test_a_project_without_the_setting_knows_no_source(settings: Settings) -> None:
    del settings.WEBHOOK_SECRETS
    assert secret_of("github") is None
    assert check_secrets() == []


def test_the_check_names_sources_without_a_usable_secret_and_no_secret(settings: Settings) -> None:
    settings.WEBHOOK_SECRETS = {"github": "s3cret", "open": "", "bytes": b"s3cret"}
    found = check_secrets()
    assert [message.id for message in found] == ["zerver_webhooks.E002"] * 2
    assert "'open'" in found[0].msg
    assert "s3cret" not in "".join(message.msg for message in found)


def test_the_check_refuses_secrets_that_are_no_mapping(settings: Settings) -> None:
    settings.WEBHOOK_SECRETS = "s3cret"
    assert [message.id for message in check_secrets()] == ["zerver_webhooks.E001"]
    assert secret_of("s") is None


@pytest.mark.parametrize(
    ("payload", "login"),
    [
        ({"sender": {"login": "octocat"}}, "octocat"),
        ({}, ""),
        ({"sender": None}, ""),
        ({"sender": "octocat"}, ""),
        ({"sender": {"login": 7}}, ""),
        ({"sender": {"login": "x" * 256}}, ""),
        ({"sender": {"login": "null\0byte"}}, ""),
    ],
)
def test_the_sender_is_who_the_payload_names_and_can_be_stored(
    payload: dict[str, object], login: str
) -> None:
    assert sender_login(payload) == login

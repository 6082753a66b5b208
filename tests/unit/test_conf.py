"""Settings: where they come from, what they accept, and what an error about them may show."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from pprint import pformat
from traceback import walk_tb
from typing import Any

import pytest
from pytest_django import Settings

from zerver.lib.conf import get_settings
from zerver.lib.errors import InvalidSetting

_NAMES = [
    "QUEUE_URL",
    "QUEUE_PASSWORD_FILE",
    "QUEUE_DATABASE",
    "QUEUE_MANAGEMENT_URL",
    "QUEUE_OVERRIDES",
    "QUEUE_RETENTION_DAYS",
    "QUEUE_PUBLISH_TIMEOUT_SECONDS",
    "QUEUE_MAX_EVENT_BYTES",
    "QUEUE_STATE_DIR",
    "QUEUE_BODY_KEYS",
    "QUEUE_BODY_KEYS_FILE",
    "QUEUE_LOG_FORMAT",
    "QUEUE_SENTRY_BODIES",
]


@pytest.fixture(autouse=True)
def _nothing_set(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither in the settings nor in the environment; the environment is read anew by each test."""
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
        if hasattr(settings, name):
            delattr(settings, name)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_defaults_suit_a_project_that_sets_nothing(settings: Settings) -> None:
    settings.BASE_DIR = Path("/srv/shop")
    found = get_settings()
    assert (found.url, found.scheme, found.has_broker) == ("db://", "db", False)
    assert (found.database, found.overrides, found.retention_days) == ("default", {}, 30)
    assert (found.publish_timeout_seconds, found.max_event_bytes) == (5, 1 << 20)
    assert (found.password_file, found.management_url) == (None, "")
    assert found.state_dir == Path("/srv/shop/var/queue")


def test_the_environment_goes_before_the_default_and_the_settings_before_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_URL", "amqp://from.environment/")
    monkeypatch.setenv("QUEUE_RETENTION_DAYS", "7")
    assert get_settings().url == "amqp://from.environment/"
    settings.QUEUE_URL = "immediate://"
    assert get_settings().scheme == "immediate"
    assert get_settings().retention_days == 7


@pytest.mark.parametrize("name", _NAMES)
def test_an_empty_variable_of_the_environment_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = get_settings()
    get_settings.cache_clear()
    monkeypatch.setenv(name, "")
    assert get_settings() == expected


def test_the_environment_s_text_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_OVERRIDES", '{"letters": {"workers": 4}}')
    monkeypatch.setenv("QUEUE_PUBLISH_TIMEOUT_SECONDS", "0.5")
    monkeypatch.setenv("QUEUE_MAX_EVENT_BYTES", "2048")
    monkeypatch.setenv("QUEUE_PASSWORD_FILE", "/run/secrets/broker")
    monkeypatch.setenv("QUEUE_STATE_DIR", "/var/lib/shop")
    found = get_settings()
    assert found.overrides == {"letters": {"workers": 4}}
    assert (found.publish_timeout_seconds, found.max_event_bytes) == (0.5, 2048)
    assert found.password_file == Path("/run/secrets/broker")
    assert found.state_dir == Path("/var/lib/shop")


@pytest.mark.parametrize(("text", "meant"), [("1", True), ("Yes", True), ("off", False), ("FALSE", False)])
def test_yes_and_no_are_understood_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, meant: bool
) -> None:
    monkeypatch.setenv("QUEUE_SENTRY_BODIES", text)
    assert get_settings().sentry_bodies is meant


@pytest.mark.parametrize("url", ["db://", "immediate://", "amqp://u:p@h:5672/v", "amqps://h1:5671,h2:5671/v"])
def test_every_kind_of_url_is_taken(settings: Settings, url: str) -> None:
    settings.QUEUE_URL = url
    assert get_settings().scheme == url.partition(":")[0]


_URL_MEND = "write db://, amqp://user@host"
_MAPPING_MEND = "write a mapping of mappings"
_NUMBER_MEND = "write a number above 0"
_WHOLE_MEND = "write a whole number above 0"
_REFUSED: list[tuple[str, Any, str]] = [
    *product(("QUEUE_URL",), ("", "redis://h", "amqp:/h", "db", None, 3), (_URL_MEND,)),
    *product(("QUEUE_DATABASE",), ("elsewhere", ""), ("name one of DATABASES: default",)),
    *product(("QUEUE_OVERRIDES",), ("{", "[]", {"letters": 4}, None), (_MAPPING_MEND,)),
    *product(
        ("QUEUE_PUBLISH_TIMEOUT_SECONDS",),
        (0, -1, "soon", "", None, "nan", "inf", float("inf")),
        (_NUMBER_MEND,),
    ),
    *product(("QUEUE_RETENTION_DAYS",), (0, "ever", []), (_NUMBER_MEND,)),
    *product(("QUEUE_MAX_EVENT_BYTES",), (0, "1MB", 1.5, "1.5", None), (_WHOLE_MEND,)),
    ("QUEUE_STATE_DIR", None, "NoneType"),
    *product(("QUEUE_LOG_FORMAT",), ("", "JSON", "xml", None, b"json", ["json"]), ("write line or json",)),
    *product(("QUEUE_SENTRY_BODIES",), ("", "maybe", None, 1, 2, []), ("write True or False",)),
]


@pytest.mark.parametrize(("name", "value", "mend"), _REFUSED, ids=repr)
def test_what_cannot_be_used_is_refused_by_name_with_its_mend(
    settings: Settings, name: str, value: Any, mend: str
) -> None:
    setattr(settings, name, value)
    with pytest.raises(InvalidSetting) as refused:
        get_settings()
    assert refused.value.name == name
    assert mend in refused.value.mend
    assert str(refused.value).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "url",
    [
        "ampq://user:secret@host/",
        "amqp//user:secret@host/",
        "amqp:/user:secret@host/",
        "user:secret@host",
        "ampq://user:secret",
        "ampq://host/?password=secret",
        "ampq://user:se@cret:secret@host/",
        " amqp://user:secret@host/",
        "user:secret@amqp://host",
    ],
)
def test_an_error_about_a_url_shows_no_password(settings: Settings, url: str) -> None:
    settings.QUEUE_URL = url
    with pytest.raises(InvalidSetting) as refused:
        get_settings()
    assert refused.value.__context__ is None
    # The first frame is this test's.
    shown = pformat([frame.f_locals for frame, _ in walk_tb(refused.value.__traceback__)][1:], width=1000)
    told = [str(refused.value), repr(refused.value), shown]
    assert not any("secret" in text or "se@cret" in text for text in told)
    assert told[0].startswith("QUEUE_URL: ")


def test_a_mistyped_scheme_is_shown(settings: Settings) -> None:
    settings.QUEUE_URL = "ampq://user:secret@host/"
    with pytest.raises(InvalidSetting, match=r"QUEUE_URL: ampq://… cannot be used"):
        get_settings()


def test_settings_are_read_once_until_one_changes(settings: Settings) -> None:
    assert get_settings() is get_settings()
    before = get_settings()
    settings.QUEUE_MAX_EVENT_BYTES = 10
    assert get_settings() is not before
    assert get_settings().max_event_bytes == 10

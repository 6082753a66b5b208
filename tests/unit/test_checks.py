"""System checks: each finding by its id, with the thing named and the mend."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from django.apps import AppConfig, apps
from django.core.checks import WARNING, CheckMessage
from django.db import connections
from django.views.debug import (
    ExceptionReporter,
    SafeExceptionReporterFilter,
    get_default_exception_reporter_filter,
)
from pytest_django import Settings

from zerver import checks
from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import ConfigurationError
from zerver.lib.registry import QueueDeclaration, QueueRegistry
from zerver.worker.queue_processors import discover


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> QueueRegistry:
    """Declarations of the test's own."""
    registry = QueueRegistry()
    monkeypatch.setattr(checks, "queues", registry)
    return registry


def ids(found: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in found]


def test_good_settings_and_declarations_give_no_findings() -> None:
    assert checks.check_settings() == []
    assert checks.check_declarations() == []
    assert checks.check_deployment() == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("QUEUE_URL", "redis://here", "QUEUE_URL: redis://… cannot be used"),
        (
            "QUEUE_URL",
            "amqp://guest:secret@host:port/",
            "QUEUE_URL: has no port after the : of host number 1",
        ),
        ("QUEUE_DATABASE", "nonesuch", "QUEUE_DATABASE: 'nonesuch' cannot be used"),
        ("QUEUE_RETENTION_DAYS", "soon", "QUEUE_RETENTION_DAYS: 'soon' cannot be used"),
        ("QUEUE_OVERRIDES", "{broken", "QUEUE_OVERRIDES: '{broken' cannot be used"),
        *(
            (
                "QUEUE_MANAGEMENT_URL",
                url,
                "QUEUE_MANAGEMENT_URL: it is no address of RabbitMQ's management API",
            )
            for url in (
                "foo",
                "amqp://secret@here",
                "http://",
                "http://guest:secret@here:port",
                "http://[secret",
            )
        ),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_with_its_mend(
    settings: Settings, name: str, value: str, told: str
) -> None:
    setattr(settings, name, value)
    [found] = checks.check_settings()
    assert (found.id, found.msg) == ("zerver.E001", told)
    assert found.hint
    assert "secret" not in f"{found.msg} {found.hint}"
    # The other checks do not stumble over it.
    assert checks.check_declarations() == []
    assert checks.check_database() == []
    assert checks.check_deployment() == []


def test_a_password_file_that_cannot_be_read_is_refused_where_there_is_a_broker(
    settings: Settings, tmp_path: Path
) -> None:
    settings.QUEUE_PASSWORD_FILE = str(tmp_path)
    assert checks.check_settings() == []
    settings.QUEUE_URL = "amqp://here"
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "nope", "No such file or directory")):
        settings.QUEUE_PASSWORD_FILE = str(path)
        [found] = checks.check_settings()
        assert (found.id, found.msg) == ("zerver.E001", f"QUEUE_PASSWORD_FILE: {path} cannot be read: {why}")


def test_a_state_directory_that_cannot_be_one_is_a_warning(settings: Settings, tmp_path: Path) -> None:
    settings.QUEUE_STATE_DIR = str(tmp_path / "new" / "one")
    assert checks.check_settings() == []
    (tmp_path / "new").write_text("")
    [found] = checks.check_settings()
    assert (found.id, found.level) == ("zerver.W004", WARNING)
    assert f"{tmp_path / 'new'} is no directory" in found.msg
    settings.QUEUE_URL = "immediate://"
    assert checks.check_settings() == []


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("QUEUE_URL", "amqps://shop:secret@here,there:5671/shop"),
        ("QUEUE_URL", "amqp://:secret@here"),
        ("QUEUE_MANAGEMENT_URL", "https://guest:secret@here:15671"),
    ],
)
def test_a_password_that_error_pages_show_is_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)
    assert checks.check_settings() == []
    setattr(settings, name, url)
    [found] = checks.check_settings()
    assert (found.id, found.level) == ("zerver.W005", WARNING)
    assert found.msg.startswith(f"{name} is a Django setting and holds a password")
    assert url in page_of_an_error()
    assert "secret" not in f"{found.msg} {found.hint}"


@pytest.mark.parametrize("url", ["amqp://here:5672/shop", "amqp://shop@here:5672", "amqp://guest:guest@here"])
def test_a_url_without_a_secret_may_be_a_django_setting(settings: Settings, url: str) -> None:
    settings.QUEUE_URL = url
    assert checks.check_settings() == []


class HidesUrls(SafeExceptionReporterFilter):
    hidden_settings = re.compile(f"{SafeExceptionReporterFilter.hidden_settings.pattern}|URL", re.IGNORECASE)


def test_a_password_that_a_filter_of_the_projects_own_hides_is_no_warning(
    settings: Settings, request: pytest.FixtureRequest
) -> None:
    settings.QUEUE_URL = "amqp://shop:secret@here"
    settings.DEFAULT_EXCEPTION_REPORTER_FILTER = f"{__name__}.HidesUrls"
    forget = get_default_exception_reporter_filter.cache_clear  # type: ignore[attr-defined] # stubs: not cached
    forget()
    request.addfinalizer(forget)
    assert checks.check_settings() == []
    assert settings.QUEUE_URL not in page_of_an_error()


def page_of_an_error() -> str:
    return ExceptionReporter(None, ValueError, ValueError(), None).get_traceback_html()


def test_a_worker_module_that_failed_to_import_is_named_with_the_reason(registry: QueueRegistry) -> None:
    registry.module_failed("shop.queue_processors", "SyntaxError: invalid syntax")
    [found] = checks.check_declarations()
    assert found.id == "zerver.E006"
    assert found.msg == "shop.queue_processors failed to import: SyntaxError: invalid syntax"


def test_an_override_of_a_queue_that_nobody_declares_is_a_warning(registry: QueueRegistry) -> None:
    registry.apply_overrides({"nonesuch": {"workers": 2}})
    [found] = checks.check_declarations()
    assert found.id == "zerver.W002"
    assert "'nonesuch'" in found.msg


@pytest.mark.parametrize(
    "options", [{"wrokers": 2}, {"workers": 0}, {"timeout_seconds": "long"}, {"retry": {"max_attempts": 0}}]
)
def test_an_override_that_is_nonsense_is_an_error(
    registry: QueueRegistry, options: dict[str, object]
) -> None:
    registry.declare(QueueDeclaration(name="orders"), object)
    with pytest.raises(ConfigurationError):
        registry.apply_overrides({"orders": options})
    [found] = checks.check_declarations()
    assert found.id == "zerver.E007"
    assert found.hint == "mend QUEUE_OVERRIDES['orders']"


def test_a_timeout_over_half_of_the_brokers_is_an_error_where_there_is_a_broker(
    registry: QueueRegistry, settings: Settings
) -> None:
    registry.declare(QueueDeclaration(name="slow", timeout_seconds=900.5, is_test_queue=True), object)
    registry.declare(QueueDeclaration(name="just_right", timeout_seconds=900, retry=RetryPolicy()), object)
    assert checks.check_declarations() == []
    settings.QUEUE_URL = "amqp://guest@localhost/"
    [found] = checks.check_declarations()
    assert found.id == "zerver.E008"
    assert "queue 'slow'" in found.msg


def test_immediate_mode_is_warned_of_in_a_deployment(settings: Settings) -> None:
    settings.QUEUE_URL = "immediate://"
    assert ids(checks.check_deployment()) == ["zerver.W003"]


@pytest.mark.parametrize("name", ["QUEUE_PASSWORD_FILE", "QUEUE_BODY_KEYS_FILE"])
def test_a_file_of_secrets_that_all_may_read_is_warned_of_in_a_deployment(
    settings: Settings, name: str
) -> None:
    # Not tmp_path, whose directories are for one user, as TMPDIR may be.
    with TemporaryDirectory(dir="/tmp") as directory:
        path = Path(directory) / "secret"
        setattr(settings, name, str(path))
        assert checks.check_deployment() == []
        path.write_text("secret")
        path.chmod(0o644)
        assert checks.check_deployment() == [], "its directory is for one user"
        Path(directory).chmod(0o755)
        [found] = checks.check_deployment()
        assert (found.id, found.level) == ("zerver.W006", WARNING)
        assert found.msg.startswith(f"{name} is {path}")
        path.chmod(0o640)
        assert checks.check_deployment() == []


def test_a_database_that_commits_nothing_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connections["default"]
    assert "zerver.E010" not in ids(checks.check_database())
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
    assert "zerver.E010" in ids(checks.check_database())


def test_an_app_that_is_a_single_module_has_no_workers_and_stops_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("lone_app")
    monkeypatch.setitem(sys.modules, "lone_app", module)
    config = type("LoneConfig", (AppConfig,), {"name": "lone_app", "path": "/", "__module__": "lone_app"})
    monkeypatch.setattr(module, "LoneConfig", config, raising=False)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "lone_app.LoneConfig"]
    assert apps.is_installed("lone_app")
    discover()

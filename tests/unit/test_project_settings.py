"""What the project's own settings make of the environment."""

import runpy
from typing import Any

import pytest
from django.core.checks.security.base import check_secret_key
from django.test import RequestFactory
from django.urls import URLPattern
from pytest_django import Settings

import zerver.settings
import zerver.urls


def settings_with(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    for name in ("SECRET_KEY", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(zerver.settings.__file__)


def test_options_of_the_database_url_go_over_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings_with(monkeypatch, DATABASE_URL="sqlite:////tmp/db.sqlite3?timeout=60")
    options = made["DATABASES"]["default"]["OPTIONS"]
    assert (options["timeout"], options["transaction_mode"]) == (60, "IMMEDIATE")
    assert "synchronous=FULL" in options["init_command"]
    plain = settings_with(monkeypatch, DATABASE_URL="sqlite:////tmp/db.sqlite3")
    assert plain["DATABASES"]["default"]["OPTIONS"]["timeout"] == 20


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DATABASE_URL", "ALLOWED_HOSTS", "LOG_LEVEL", "DEBUG", "SECRET_KEY")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    unset = settings_with(monkeypatch)
    empty = settings_with(monkeypatch, **dict.fromkeys(names, ""))
    for name in ("DATABASES", "ALLOWED_HOSTS", "LOGGING", "DEBUG"):
        assert empty[name] == unset[name]
    assert empty["SECRET_KEY"].startswith("django-insecure-")


def test_a_key_that_nobody_gave_is_new_each_time_and_told_by_the_deployment_check(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    made = {settings_with(monkeypatch)["SECRET_KEY"] for _ in range(2)}
    assert len(made) == 2
    settings.SECRET_KEY = made.pop()
    assert [found.id for found in check_secret_key(None)] == ["security.W009"]
    settings.SECRET_KEY = settings_with(monkeypatch, SECRET_KEY="k3y" * 10 + "abcdefghijklmnopqrstuvwxyz")[
        "SECRET_KEY"
    ]
    assert check_secret_key(None) == []


def test_who_develops_is_told_what_is_there(settings: Settings, rf: RequestFactory) -> None:
    def pages() -> dict[str, Any]:
        found = runpy.run_path(zerver.urls.__file__)["urlpatterns"]
        return {str(page.pattern): page.callback for page in found if isinstance(page, URLPattern)}

    assert pages() == {}
    settings.DEBUG = True
    assert b"/webhooks/SOURCE" in pages()[""](rf.get("/")).content

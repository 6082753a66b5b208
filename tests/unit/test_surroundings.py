"""What stays between the events of a thread, and what does not."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.utils import timezone, translation
from pytest_django import Settings

from zerver.worker.surroundings import freshen, in_context

OF_AN_AUTHOR: ContextVar[str] = ContextVar("of_an_author", default="")


def test_what_a_call_sets_for_itself_is_gone_with_it() -> None:
    def set_all() -> None:
        translation.activate("de")
        timezone.activate("Europe/Berlin")
        OF_AN_AUTHOR.set("mine")

    def told() -> tuple[Any, ...]:
        return translation.get_language(), str(timezone.get_current_timezone()), OF_AN_AUTHOR.get()

    before = in_context(told)
    in_context(set_all)
    assert in_context(told) == before


def test_all_calls_of_a_thread_share_their_caches_whose_connections_are_looked_after(
    settings: Settings,
) -> None:
    closed: list[object] = []

    class Cache(LocMemCache):
        def close(self, **_: Any) -> None:
            closed.append(self)

    module = f"{__name__}.Cache"
    globals()["Cache"] = Cache
    settings.CACHES = {
        "default": {"BACKEND": module},
        "broken": {"BACKEND": "no.such.Backend"},
    }
    settings.DEBUG = True  # else it is looked after them now and then
    freshen()
    freshen()
    used = {id(in_context(lambda: caches["default"])) for _ in range(3)}
    assert len(used) == 1
    freshen()
    assert {id(each) for each in closed} == used

"""What stays between the events of a thread, and what does not."""

from __future__ import annotations

import decimal
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.utils import timezone, translation
from pytest_django import Settings

from zerver.worker.surroundings import freshen, in_context


def test_what_a_call_sets_for_itself_is_gone_with_it() -> None:
    def set_all() -> None:
        translation.activate("de")
        timezone.activate("Europe/Berlin")
        decimal.getcontext().prec = 7

    def told() -> tuple[Any, ...]:
        return translation.get_language(), str(timezone.get_current_timezone()), decimal.getcontext().prec

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

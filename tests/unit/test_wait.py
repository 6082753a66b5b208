"""``wait_for`` is what every other test leans on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

import pytest

from tests.wait import PATIENCE, WaitTimeoutError, wait_for


def test_returns_what_the_condition_returned() -> None:
    assert wait_for(lambda: "ready") == "ready"


def test_asks_until_the_condition_is_truthy() -> None:
    answers: Iterator[object] = iter([None, 0, "", [], "at last"])
    assert wait_for(lambda: next(answers), timeout_seconds=5) == "at last"


def test_asks_at_least_once_even_without_time() -> None:
    assert wait_for(lambda: True, timeout_seconds=0)


def test_asks_once_more_after_the_time_is_up() -> None:
    calls = count(1)
    with pytest.raises(WaitTimeoutError):
        wait_for(lambda: next(calls) < 0, timeout_seconds=0.01)
    assert next(calls) >= 3, "asked at the start and at the end, at least"


def test_a_timeout_says_what_was_waited_for_and_what_was_seen() -> None:
    told = f"Waited {PATIENCE * 0.01:g} s for an empty queue; last seen: 0"
    with pytest.raises(WaitTimeoutError, match=re.escape(told)):
        wait_for(lambda: 0, timeout_seconds=0.01, message="an empty queue")


def test_a_message_may_be_made_at_the_end() -> None:
    seen: list[int] = []

    def condition() -> bool:
        seen.append(len(seen))
        return False

    with pytest.raises(WaitTimeoutError) as raised:
        wait_for(condition, timeout_seconds=0.01, message=lambda: f"more than {len(seen)} calls")
    assert f"more than {len(seen)} calls" in str(raised.value)


def test_an_exception_of_the_condition_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 / 0, timeout_seconds=5)


def test_a_timeout_is_a_failed_assertion() -> None:
    assert issubclass(WaitTimeoutError, AssertionError)

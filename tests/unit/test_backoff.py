"""The retry policy: how long it waits, and what it refuses to be."""

import math
import random
from itertools import product
from typing import Any

import pytest

from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import ConfigurationError


def test_without_jitter_the_wait_grows_by_the_factor_up_to_the_cap() -> None:
    policy = RetryPolicy(base_seconds=1, factor=4, cap_seconds=100, jitter=0)
    assert [policy.delay_seconds(attempt) for attempt in range(1, 7)] == [1, 4, 16, 64, 100, 100]


def test_full_jitter_draws_from_nothing_to_the_whole_wait() -> None:
    policy = RetryPolicy(base_seconds=10, factor=2, cap_seconds=1000)
    waits = [policy.delay_seconds(3, random.Random(seed)) for seed in range(400)]
    assert 0 <= min(waits) < 1 < 39 < max(waits) <= 40
    assert 18 < sum(waits) / len(waits) < 22


def test_half_jitter_keeps_half_the_wait() -> None:
    policy = RetryPolicy(base_seconds=10, factor=1, jitter=0.5)
    waits = [policy.delay_seconds(1, random.Random(seed)) for seed in range(200)]
    assert 5 <= min(waits) < 5.5 < 9.5 < max(waits) <= 10


@pytest.mark.parametrize("factor", [4, 4.0, 1.0001])
def test_attempts_without_number_stay_under_the_cap(factor: float) -> None:
    policy = RetryPolicy(factor=factor, cap_seconds=3600, jitter=0)
    assert policy.delay_seconds(1_000_000) == 3600


def test_a_base_of_nothing_never_waits() -> None:
    policy = RetryPolicy(base_seconds=0.0)
    assert [policy.delay_seconds(attempt) for attempt in (1, 5, 5000)] == [0, 0, 0]


_NONSENSE: list[tuple[str, Any]] = [
    *product(("max_attempts",), (0, -1, 2.5, "3", True, None, math.inf)),
    *product(("base_seconds", "cap_seconds"), (-1, "1", None, True, math.nan, math.inf)),
    *product(("factor",), (0.5, 0, "2", None, math.nan, math.inf)),
    *product(("jitter",), (-0.1, 1.1, "1", None, math.nan)),
]


@pytest.mark.parametrize(("name", "value"), _NONSENSE, ids=repr)
def test_nonsense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"RetryPolicy: {name} is ") as refused:
        RetryPolicy(**{name: value})
    assert repr(value) in str(refused.value)
    assert "it must be" in str(refused.value)

"""Fixtures of the unit tests: none of them touches a disk, a network or a database."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from zerver.lib.registry import QueueRegistry, queues


@pytest.fixture
def declarations() -> Iterator[QueueRegistry]:
    """This process's declarations, put back as they were when the test has declared its own."""
    before = {name: copy.copy(value) for name, value in vars(queues).items()}
    yield queues
    vars(queues).update(before)

"""Fixtures of the unit tests: none of them touches a disk, a network or a database."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator

import pytest

from zerver.lib.registry import QueueRegistry, queues


def pytest_collection_finish() -> None:
    """What has been imported and collected is there to stay: to look at it again and again costs a sixth of all."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def declarations() -> Iterator[QueueRegistry]:
    """This process's declarations, put back as they were when the test has declared its own."""
    before = {name: copy.copy(value) for name, value in vars(queues).items()}
    yield queues
    vars(queues).update(before)

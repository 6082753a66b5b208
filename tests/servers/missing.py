"""What becomes of a test whose server is not installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest

from tests.servers.spawn import ServerMissingError

P = ParamSpec("P")
T = TypeVar("T")


def or_skip(server: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Make a server; where its programs are missing, skip at home and fail in CI."""
    try:
        return server(*args, **options)
    except ServerMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))

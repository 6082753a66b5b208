"""Names of tests that are the same in every process: pytest-xdist compares them."""

from __future__ import annotations

import re


def stable_repr(value: object) -> str:
    """Without the address at which an object happens to be."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))

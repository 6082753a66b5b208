"""Every case, in the order of their turns."""

from __future__ import annotations

from tests.bench.case import Case
from tests.bench.cases.drain import DRAINS

CASES: dict[str, Case] = {case.name: case for case in (*DRAINS,)}

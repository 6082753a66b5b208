"""Every case, in the order of their turns."""

from __future__ import annotations

from tests.bench.case import Case
from tests.bench.cases.drain import DRAINS
from tests.bench.cases.embedded import EMBEDDED
from tests.bench.cases.latency import LATENCIES
from tests.bench.cases.memory import MEMORY
from tests.bench.cases.prefetch import PREFETCHES
from tests.bench.cases.publishing import PUBLISHING
from tests.bench.cases.waiting import WAITING

CASES: dict[str, Case] = {
    case.name: case for case in (*DRAINS, *WAITING, *PREFETCHES, *PUBLISHING, *LATENCIES, *MEMORY, *EMBEDDED)
}

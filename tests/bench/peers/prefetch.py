"""Ours, fetching by the pace as it does, and the same with a prefetch that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.bench.peers.zerver import Zerver
from tests.bench.setting import Setting

#: As in ``project/queue_processors.py``.
IS_PREFETCH_FIXED = "BENCH_IS_PREFETCH_FIXED"


class ByPace(Zerver):
    name = "zerver-by-pace"
    title = "zerver, fetching by the pace"
    settings = (
        "every option as it is by default, threads=1 too: about a second's work is fetched, 1000 events at the most",
    )

    def _side_by_side(self) -> Mapping[str, object]:
        return {}


class _Fixed(ByPace):
    prefetch: ClassVar[int]

    def _options(self, setting: Setting) -> dict[str, object]:
        return {**super()._options(setting), "prefetch": self.prefetch}

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        return {**super().environment(setting, env), IS_PREFETCH_FIXED: "1"}


def _settings(prefetch: int) -> tuple[str, ...]:
    return (f"as zerver-by-pace, but a prefetch of {prefetch:,} whatever the pace: this is nobody's option",)


class Fixed1(_Fixed):
    name, title = "prefetch-1", "zerver, prefetch 1"
    prefetch = 1
    drains = 1_000
    settings = _settings(prefetch)


class Fixed100(_Fixed):
    name, title = "prefetch-100", "zerver, prefetch 100"
    prefetch = 100
    settings = _settings(prefetch)


class Fixed1000(_Fixed):
    name, title = "prefetch-1000", "zerver, prefetch 1000"
    prefetch = 1_000
    settings = _settings(prefetch)

"""The events that everybody publishes. Used in every environment: nothing but the standard library.

Event number n is ``{"n": n, …}``, the rest being one of a file of templates, one a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Of the whole event, as JSON without spaces.
SMALL_BYTES = 150
#: Real webhooks between these sizes; 8 KB at the median. Units: bytes.
WEBHOOK_BYTES = (6_000, 12_000)
#: No more than the programs in C read.
MOST_TEMPLATES = 64
WEBHOOKS = Path(__file__).resolve().parents[1] / "data" / "github-webhooks.jsonl"


class Templates:
    def __init__(self, path: Path) -> None:
        self._templates: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]

    def event(self, number: int) -> dict[str, Any]:
        return {"n": number, **self._templates[number % len(self._templates)]}

    def events(self, first: int, count: int) -> Iterator[dict[str, Any]]:
        return map(self.event, range(first, first + count))


def write_templates(kind: str, path: Path) -> None:
    """``kind`` as in ``Setting.events``."""
    made = [_small()] if kind == "small" else list(_webhooks())
    path.write_text("".join(json.dumps(template, separators=(",", ":")) + "\n" for template in made))


def _small() -> dict[str, Any]:
    template = {
        "user_id": 4_711,
        "client": "website",
        "query": "get_messages",
        "time": 1_790_000_000.25,
        "note": "",
    }
    whole = json.dumps({"n": 100_000, **template}, separators=(",", ":"))
    return {**template, "note": "x" * (SMALL_BYTES - len(whole))}


def _webhooks() -> list[dict[str, Any]]:
    least, most = WEBHOOK_BYTES
    lines = [line for line in WEBHOOKS.read_text().splitlines() if least <= len(line.encode()) <= most]
    # The nearest to 8 KB, so that no round is of larger ones than another.
    lines.sort(key=lambda line: abs(len(line.encode()) - 8_192))
    return [json.loads(line) for line in lines[:MOST_TEMPLATES]]

"""``promtool``, and what is scraped, read as Prometheus reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.servers.processes import REPOSITORY
from tests.servers.spawn import ServerMissingError

DIRECTORY = REPOSITORY / "deploy" / "prometheus"
RULES = DIRECTORY / "zerver.rules.yml"
DASHBOARD = DIRECTORY / "dashboard.json"
#: What a scrape may take: Prometheus itself gives up then, unless it is told otherwise.
SCRAPE_SECONDS = 10.0

_METRIC = re.compile(r"\bzerver_[a-z_]+")


class Promtool:
    def __init__(self) -> None:
        found = shutil.which("promtool")
        if found is None:
            raise ServerMissingError("promtool", "prometheus")
        self._program = found

    def accepts(self, *arguments: str | Path, given: str = "") -> str:
        """What it said. Raises: AssertionError with that, when it finds anything to say against it."""
        done = subprocess.run(
            [self._program, *arguments],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


class Figures:
    """What one scrape, or one file, tells."""

    def __init__(self, text: str) -> None:
        self.text = text
        families = list(text_string_to_metric_families(text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
        self.names = {name for name, _ in self._samples}

    @classmethod
    def within(cls, output: str) -> Figures:
        """Ours alone, of all that a process said."""
        return cls("".join(f"{line}\n" for line in output.splitlines() if line.startswith("zerver_")))

    @classmethod
    def scrape(cls, port: int) -> Figures:
        """Raises: OSError, also when it takes longer than Prometheus waits."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_SECONDS) as answer:
            return cls(answer.read().decode())

    def get(self, name: str, **labels: str) -> float | None:
        """None where there is no such figure."""
        return self._samples.get((name, frozenset(labels.items())))

    def up(self) -> dict[str, float | None]:
        """``zerver_up`` by its part; None where it does not say."""
        return {part: self.get("zerver_up", part=part) for part in ("database", "broker")}


def named_by_rules() -> set[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return _named(rule["expr"] for group in groups for rule in group["rules"])


def named_by_dashboard() -> set[str]:
    return _named(_strings(json.loads(DASHBOARD.read_text())))


def _named(expressions: Iterator[str]) -> set[str]:
    return {name for expression in expressions for name in _METRIC.findall(expression)}


def _strings(value: Any) -> Iterator[str]:
    """Of all that Prometheus is asked: expressions, and the queries of variables."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("expr", "query") and isinstance(inner, str):
                yield inner
            else:
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)

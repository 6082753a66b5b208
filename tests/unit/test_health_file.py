"""What a container's probe makes of a health file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zerver.lib.queue_stats import HEALTH_FRESH_SECONDS
from zerver.monitoring.health_file import main


@pytest.fixture
def health_file(tmp_path: Path) -> Path:
    return said(tmp_path / "health.json", "running")


def said(path: Path, *states: str, ready: bool = True) -> Path:
    queues = {f"q{n}": {"state": each} for n, each in enumerate(states)}
    path.write_text(json.dumps({"at_ms": 0, "ready": ready, "queues": queues}))
    return path


def aged(path: Path, seconds: float) -> Path:
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))
    return path


def test_a_file_that_is_fresh_is_of_a_process_that_lives(health_file: Path) -> None:
    assert main(["live", str(health_file)]) == 0
    assert main(["ready", str(health_file)]) == 0
    assert main(["live", str(aged(health_file, -3600))]) == 0, "a clock was set back"


def test_one_that_is_old_or_missing_is_not(health_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aged(health_file, HEALTH_FRESH_SECONDS + 60)
    assert (main(["live", str(health_file)]), main(["ready", str(health_file)])) == (1, 1)
    assert f"{health_file}: written 90 s ago" in capsys.readouterr().out
    health_file.unlink()
    assert main(["live", str(health_file)]) == 1
    assert capsys.readouterr().out == f"{health_file}: No such file or directory\n"


def test_a_queue_that_somebody_has_paused_is_no_less_ready(tmp_path: Path) -> None:
    assert main(["ready", str(said(tmp_path / "health.json", "running", "paused"))]) == 0


@pytest.mark.parametrize("state", ["starting", "failing", "draining"])
def test_who_fails_or_drains_lives_and_is_not_ready(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    path = said(tmp_path / "health.json", "running", state, ready=False)
    assert (main(["live", str(path)]), main(["ready", str(path)])) == (0, 1)
    assert capsys.readouterr().out == f"queue q1 is {state}\n"


def test_what_the_file_says_of_readiness_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ready", str(said(tmp_path / "health.json", "running", ready=False))]) == 1
    assert capsys.readouterr().out == "it has not begun to take events\n"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"queues": {}}', '{"ready": false, "queues": []}', '{"queues": {"q": 1}}', "\x00"],
)
def test_a_file_that_is_none_of_ours_is_not_ready(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "health.json"
    path.write_text(text)
    assert main(["ready", str(path)]) == 1
    assert f"{path} is no health file: " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["live"], ["alive", "x"], ["live", "x", "y"]])
def test_wrong_usage_has_a_code_of_its_own(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_it_starts_without_django(health_file: Path) -> None:
    module = "zerver.monitoring.health_file"
    script = (
        f"import runpy, sys; sys.modules['django'] = None; runpy.run_module('{module}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script, "ready", health_file], timeout=60, check=False)
    assert done.returncode == 0

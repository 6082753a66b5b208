"""Scripts say what they are for, and do nothing then."""

from __future__ import annotations

import subprocess

import pytest

from tests.servers.processes import REPOSITORY

SCRIPTS = ("bench", "lint", "restart-workers", "run-dev", "test")


def called(script: str, *arguments: str) -> tuple[int, str, str]:
    # From where the script is: what it prints is in itself, wherever it is called from.
    done = subprocess.run(
        [f"./{script}", *arguments],
        cwd=REPOSITORY / "scripts",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_a_script_that_is_asked_what_it_does_says_so_and_ends(script: str, flag: str) -> None:
    code, said, complaint = called(script, flag)
    assert (code, complaint) == (0, "")
    assert f"scripts/{script}" in said
    assert "#" not in said
    assert "set -euo" not in said


def test_a_flag_that_lint_does_not_know_is_refused() -> None:
    assert called("lint", "--fxi") == (
        1,
        "",
        "zerver: lint takes --fix or nothing: see scripts/lint --help\n",
    )


def test_the_bench_names_its_cases_and_measures_nothing() -> None:
    code, said, _ = called("bench", "--list", "--case", "drain", "--peer", "zerver", "celery")
    assert (code, said.split()) == (0, ["drain", "Drain,", "one", "worker", "process:", "zerver,", "celery"])

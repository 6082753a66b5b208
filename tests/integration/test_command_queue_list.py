"""queue_list."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.integration.commands import run
from tests.servers.processes import ProjectProcess


def test_every_declared_queue_is_listed_and_test_queues_when_asked_for() -> None:
    usual = [queue["queue"] for queue in run("queue_list", "--json").json["queues"]]
    everything = [queue["queue"] for queue in run("queue_list", "--json", "--all").json["queues"]]
    assert "user_activity" in usual
    assert "noop" not in usual
    assert "noop" in everything
    assert everything == sorted(everything)


def test_what_was_declared_is_told_where_it_is_not_the_default() -> None:
    ran = run("queue_list", "--all")
    assert ran.row("user_activity")[-1].endswith("transactional=True")
    assert ran.row("noop")[-1] == "is_test_queue=True"


def test_overrides_are_shown_as_declared_and_effective(
    project_process: Callable[..., ProjectProcess],
) -> None:
    overrides = {"user_activity": {"workers": 4, "retry": {"max_attempts": 2}}}
    env = {"QUEUE_OVERRIDES": json.dumps(overrides)}
    shown, as_json = (project_process("queue_list", *flag, env=env) for flag in ((), ("--json",)))
    assert shown.wait() == 0, shown.output
    [line] = [line for line in shown.output.splitlines() if line.startswith("user_activity")]
    assert "workers=1 -> 4" in line
    assert "-> (max_attempts=2)" in line
    assert as_json.wait() == 0, as_json.output
    [queue] = [item for item in json.loads(as_json.output)["queues"] if item["queue"] == "user_activity"]
    assert queue["declared"]["workers"] == 1
    assert queue["effective"]["workers"] == 4
    assert queue["overrides"]["retry"]["max_attempts"] == 2


def test_a_worker_module_that_fails_to_import_is_named_and_the_others_are_listed(
    tmp_path: Path, project_process: Callable[..., ProjectProcess]
) -> None:
    app = tmp_path / "broken_app"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "queue_processors.py").write_text("import nonesuch_module\n")
    (tmp_path / "broken_settings.py").write_text(
        "from zerver.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'broken_app']\n"
    )
    env = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "broken_settings"}
    listing = project_process("queue_list", env=env)
    checking = project_process("check", env=env)
    assert listing.wait() == 0, listing.output
    assert "user_activity" in listing.output
    assert "broken_app.queue_processors failed to import (ModuleNotFoundError" in listing.output
    assert checking.wait() == 1
    assert "zerver.E006" in checking.output

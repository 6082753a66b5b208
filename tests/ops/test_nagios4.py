"""A real Nagios, a real broker, a real worker: what Nagios says when the worker stops, and when it is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM
from urllib.parse import urlsplit

import pytest

from tests.ops.nagios import PLUGINS, Site
from tests.servers.missing import or_skip
from tests.servers.nagios4 import Nagios4
from tests.servers.processes import ProjectProcess, run_project
from tests.wait import wait_for

#: As Nagios writes them.
OK, CRITICAL = "0", "2"


@pytest.fixture
def nagios() -> Iterator[Nagios4]:
    with or_skip(Nagios4) as server:
        yield server


def test_nagios_goes_from_ok_to_critical_when_a_worker_stops_and_back(
    nagios: Nagios4,
    tmp_path: Path,
    rabbit_vhost: str,
    sqlite_database: str,
    project_process: Callable[..., ProjectProcess],
) -> None:
    env = {
        "DJANGO_SETTINGS_MODULE": "zerver.settings",
        "QUEUE_URL": rabbit_vhost,
        "DATABASE_URL": sqlite_database,
        "QUEUE_STATE_DIR": str(tmp_path / "stats"),
    }
    site = Site(tmp_path, rabbit_vhost)
    site.declarations.write_text(run_project("queue_config", "declarations", env=env))
    options = site.broker()
    broker = [
        f"--broker-option={name}={value}" for name, value in zip(options[::2], options[1::2], strict=True)
    ]
    services = run_project(
        *("queue_config", "nagios", "--local", f"--plugin-directory={PLUGINS}"),
        *(f"--stats-directory={site.stats_dir}", *broker),
        f"--database-option=--sqlite={urlsplit(sqlite_database).path}",
        env=env,
    )
    nagios.configure(services.replace("/etc/zulip/queues.json", str(site.declarations)))
    assert "Total Errors:   0" in nagios.verify()
    workers = [project_process("process_queue", "--all", env=env)]

    def states(*names: str) -> dict[str, tuple[str, str]]:
        """State and line of each that has been checked."""
        told = nagios.services()
        return {
            name: (told[name]["current_state"], told[name]["plugin_output"])
            for name in names
            if name in told and told[name]["has_been_checked"] == "1"
        }

    def are(level: str, *names: str) -> bool:
        found = states(*names)
        return len(found) == len(names) and all(state == level for state, _ in found.values())

    everything = ("zulip consumers", "zulip worker errors", "zulip queue user_activity")
    nagios.run()
    wait_for(lambda: are(OK, *everything), 60, lambda: f"all to be OK: {states(*everything)}")
    assert nagios.services()["zulip consumers"]["performance_data"].startswith("incoming_webhooks=1;1:1;1:;0")

    workers[0].signal(SIGTERM)
    assert workers[0].wait() == 0
    wait_for(lambda: are(CRITICAL, "zulip consumers"), 60, lambda: str(states(*everything)))
    [(_, line)] = states("zulip consumers").values()
    assert "queue user_activity has no consumer, 1 declared: start its workers" in line
    assert are(OK, "zulip queue user_activity")  # nothing waits there
    event = '{"user": "u", "client": "c", "query": "q", "time": "2026-05-01T12:00:00Z"}'
    run_project("queue_publish", "user_activity", event, env=env)
    wait_for(lambda: are(CRITICAL, "zulip queue user_activity"), 60, lambda: str(states(*everything)))
    [(_, line)] = states("zulip queue user_activity").values()
    assert "1 event waits, and nobody takes from it" in line

    workers.append(project_process("process_queue", "--all", env=env))
    wait_for(lambda: are(OK, *everything), 60, lambda: f"all to be OK again: {states(*everything)}")

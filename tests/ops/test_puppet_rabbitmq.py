"""zulip::rabbitmq, applied to a broker of the test's own: what it makes of it is what a worker needs."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.ops.puppet import CHANGED, FAILED, FAILED_TO_COMPILE, NOTHING_CHANGED, USER, Puppet
from tests.servers.processes import ProjectProcess, run_project
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.contrib.activity.models import UserActivity

PASSWORD, NEXT_PASSWORD = "s3cret-of-$shop`'\"", "s3cret no 2"


class Broker:
    """zulip::rabbitmq of a node that runs already."""

    def __init__(self, puppet: Puppet, directory: Path, server: RabbitServer | None = None) -> None:
        self.puppet = puppet
        self.password_file = directory / "rabbitmq-password"
        self._server = server
        (puppet.root / "etc/systemd/system").mkdir(parents=True)

    def apply(self, parameters: str, *options: str) -> int:
        given = f"password_file => '{self.password_file}', {parameters}"
        if self._server is not None:
            given += f", manage_server => false, rabbitmqctl => '{self._server.rabbitmqctl_program()}'"
        return self.puppet.apply_manifest(
            # Debian's own way to ask for the service's status leaves an epmd behind.
            "Service { status => '/bin/false' }\n"
            f"class {{ 'zulip::base': root => '{self.puppet.root}', manage_user => false, "
            f"app_name => 'shop', user => '{USER}' }}\n"
            f"class {{ 'zulip::rabbitmq': {given} }}\n",
            *options,
        )


def what_puppet_keeps(directory: Path) -> list[str]:
    """Catalogs, reports, states."""
    kept = [path for name in ("conf", "var") for path in (directory / name).rglob("*") if path.is_file()]
    assert any(path.name == "last_run_report.yaml" for path in kept)
    return [path.read_text(errors="replace") for path in kept]


@pytest.mark.timeout(600)
def test_a_worker_works_where_puppet_has_made_its_vhost_and_user_and_nobody_sees_the_password(
    puppet: Puppet,
    start_rabbit_server: Callable[..., RabbitServer],
    project_process: Callable[..., ProjectProcess],
    sqlite_database: str,
    tmp_path: Path,
) -> None:
    server = start_rabbit_server()
    broker = Broker(puppet, tmp_path, server)
    calls = server.directory / "calls"
    ours = (
        f"listeners => ['127.0.0.1:{server.port}'], management_listener => '{server.management_address}', "
        "disk_free_limit => '1MB', consumer_timeout_seconds => 60, settings => { 'log.console' => 'false' }"
    )
    seen = []

    broker.password_file.write_text(f"{PASSWORD}\n")
    assert broker.apply(ours) == CHANGED, puppet.output
    seen.append(puppet.output)
    first_calls = calls.read_text()
    assert broker.apply(ours) == NOTHING_CHANGED, puppet.output
    assert not re.search("(add|set|change|delete)_", calls.read_text().removeprefix(first_calls))
    assert server.rabbitmqctl("list_users", "--silent") == "shop\t[monitoring]\n", "guest has gone"

    broker.password_file.write_text(f"{NEXT_PASSWORD} \n")
    assert broker.apply(ours) & FAILED, puppet.output
    assert f"{broker.password_file}: put the password of user shop there, and nothing else" in puppet.output
    seen.append(puppet.output)
    broker.password_file.write_text(NEXT_PASSWORD)
    assert broker.apply(ours) == CHANGED, puppet.output
    for text in (*seen, puppet.output, calls.read_text(), *what_puppet_keeps(tmp_path)):
        assert "s3cret" not in text

    # From now on the broker goes by what puppet has written.
    for name in ("rabbitmq.conf", "enabled_plugins"):
        (server.directory / name).write_text((puppet.root / "etc/rabbitmq" / name).read_text())
    server.kill()
    server.begin_start()
    wait_for(server.ready, 60, "RabbitMQ to answer")
    for setting, value in (("rabbit, consumer_timeout", 60_000), ("ra, wal_max_size_bytes", 64 << 20)):
        assert server.rabbitmqctl("eval", f"application:get_env({setting}).") == f"{{ok,{value}}}\n"

    database = tmp_path / "db.sqlite3"
    assert sqlite_database.endswith(str(database))
    env = {
        "DATABASE_URL": sqlite_database,
        "QUEUE_URL": f"amqp://shop@127.0.0.1:{server.port}/shop",
        "QUEUE_MANAGEMENT_URL": f"http://shop@{server.management_address}",
        "QUEUE_PASSWORD_FILE": str(broker.password_file),
        "QUEUE_STATE_DIR": str(tmp_path / "state"),
    }
    project_process("process_queue", "--queue=user_activity", env=env)
    event = {"user": "ada", "client": "web", "query": "q", "time": "2026-01-01T00:00:00Z"}
    run_project("queue_publish", "user_activity", json.dumps(event), env=env)

    table = UserActivity._meta.db_table

    def effects() -> int:
        with closing(sqlite3.connect(database)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    wait_for(effects, 30, "the event's effect")

    def status_with_unacked() -> dict[str, Any]:
        """Empty until the management API has sampled the new queue: every 5 s, RabbitMQ's default."""
        status: dict[str, Any] = json.loads(run_project("queue_status", "user_activity", "--json", env=env))
        return {} if status["queues"][0]["unacked"] is None else status

    status = wait_for(status_with_unacked, 30, "unacked, which only the management API tells")
    assert (status["problems"], status["queues"][0]["consumers"]) == ([], 1), status


def test_files_come_before_the_package_which_would_start_a_broker_that_listens_everywhere(
    puppet: Puppet, tmp_path: Path
) -> None:
    assert Broker(puppet, tmp_path).apply("rabbitmqctl => '/bin/false'", "--noop") == NOTHING_CHANGED, (
        puppet.output
    )
    told = [
        puppet.output.find(each)
        for each in ("rabbitmq.conf]", "Service[rabbitmq-server]", "Exec[zulip: vhost]")
    ]
    assert told == sorted(told), puppet.output
    assert -1 not in told, puppet.output
    assert "Could not" not in puppet.output


def test_a_consumer_timeout_that_workers_would_refuse_is_refused_first(
    puppet: Puppet, tmp_path: Path
) -> None:
    assert Broker(puppet, tmp_path).apply("consumer_timeout_seconds => 59") == FAILED_TO_COMPILE, (
        puppet.output
    )
    assert (
        "consumer_timeout_seconds: timeout_seconds of incoming_webhooks, user_activity, zerver_dead is over half "
        "of 59, and their workers would not start; give 60.0 or more"
    ) in puppet.output
    assert not (puppet.root / "etc/rabbitmq").exists()


@pytest.mark.parametrize(
    "refused",
    [
        {"vhost": "'shop; id'", "user": "'-shop'", "write": "'^shop$|x'", "listeners": "['5672']"},
        {
            "settings": "{ 'default_pass' => 's3cret', 'log.console' => \"false\\nx = y\" }",
            "memory_watermark": "40.0",
            "plugins": "['rabbitmq_management].']",
        },
    ],
)
def test_what_no_broker_could_bear_is_refused(
    puppet: Puppet, tmp_path: Path, refused: dict[str, str]
) -> None:
    parameters = ", ".join(f"{name} => {value}" for name, value in refused.items())
    assert Broker(puppet, tmp_path).apply(parameters) == FAILED_TO_COMPILE, puppet.output
    assert [name for name in refused if f"parameter '{name}'" not in puppet.output] == []
    assert "s3cret" not in puppet.output

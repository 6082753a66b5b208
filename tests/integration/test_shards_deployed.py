"""What runs and watches the workers of a queue with shards: a program, a unit, a Deployment and a service for each."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pytest_django import Settings
from supervisor.options import ServerOptions

from tests.integration.commands import run
from zerver.deployment.kubernetes import dns_name
from zerver.lib.registry import QueueDeclaration, queues
from zerver.nagios import declared
from zerver.nagios.database import Trouble
from zerver.nagios.errors import NoAnswer
from zerver.nagios.ranges import Range
from zerver.nagios.worker_errors import judge
from zerver.worker.queue_processors import get_active_worker_queues

SHARDS = ["orders.0", "orders.1"]


class OrderWorker:
    pass


@pytest.fixture(autouse=True)
def orders() -> Iterator[None]:
    """``orders`` has two shards in the code, and ``orders_0`` is none of them."""
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(queues).items()}
    queues.declare(QueueDeclaration(name="orders", shards=2, shard_key="id", module="shop"), OrderWorker)
    queues.declare(QueueDeclaration(name="orders_0", module="shop"), OrderWorker)
    yield
    vars(queues).update(before)


def config(kind: str, *arguments: str) -> str:
    ran = run("queue_config", kind, *arguments)
    assert ran.code == 0, ran.err
    return ran.out


def test_a_fleet_runs_the_shards_and_not_their_family() -> None:
    assert [name for name in get_active_worker_queues() if name.startswith("orders")] == [*SHARDS, "orders_0"]


def test_supervisord_has_a_program_for_each_shard(tmp_path: Path) -> None:
    arguments = [f"--user={getpass.getuser()}", f"--directory={tmp_path}", f"--log-directory={tmp_path}"]
    written = tmp_path / "supervisord.conf"
    written.write_text("[supervisord]\n" + config("supervisor", *arguments))
    options = ServerOptions()
    options.realize(["-c", str(written), "-n"])
    found = {group.name: group.process_configs for group in options.process_group_configs}
    for name in SHARDS:
        [process] = found[f"zulip_events_{name}"]
        assert f"process_queue --queue={name}" in process.command


def test_systemd_has_a_unit_for_each_shard() -> None:
    text = config("systemd")
    for name in SHARDS:
        assert f"zulip-queue-{name}@.service" in text
        assert f"--queue={name} --worker_num=%i" in text
        assert f"zulip-queue-{name}@1.service" in text


def test_kubernetes_lets_no_two_pods_of_a_shard_run_at_once_and_has_names_of_its_own_for_them() -> None:
    text = config("kubernetes", "--name=shop", "--image=registry.example/shop:1")
    found = {each["metadata"]["name"]: each for each in yaml.safe_load_all(text)}
    names = [dns_name(f"shop-{name}") for name in (*SHARDS, "orders_0")]
    assert len(set(names)) == 3
    assert [found[name]["spec"]["strategy"]["type"] for name in names] == [
        "Recreate",
        "Recreate",
        "RollingUpdate",
    ]
    for name in names:
        assert "." not in name
        kubernetes_validate.validate(found[name], "1.33", strict=True)


def test_puppet_and_the_plugins_for_nagios_know_the_shards(tmp_path: Path, settings: Settings) -> None:
    settings.QUEUE_URL = "amqp://shop@broker"
    assert "    'orders.0',\n    'orders.1',\n" in config("normal-queues")
    written = tmp_path / "queues.json"
    written.write_text(config("declarations"))
    assert set(SHARDS) <= set(declared.read(written))
    assert "orders.1" in config("nagios", "--host=web1")
    for name in ("orders.", "orders.x", "o" * 64):
        written.write_text(json.dumps({"format": declared.FORMAT, "queues": {name: {}}}))
        with pytest.raises(NoAnswer, match="where a queue should stand"):
            declared.read(written)


def test_a_pause_of_all_shards_is_known_to_the_plugin_that_asks_the_database() -> None:
    trouble = Trouble(
        failed={}, suspects={}, due_seconds={"orders.1": 100.0, "orders_0": 100.0}, paused=["orders"]
    )
    found = [finding.text for finding in judge({}, trouble, Range.up_to(0), None)]
    assert any("queue orders.1 is paused" in text for text in found)
    assert not any("queue orders_0 is paused" in text for text in found)


def test_an_override_of_one_shard_is_told_as_a_mistake() -> None:
    queues.apply_overrides({"orders.1": {"prefetch": 5}})
    found = run("check", "--tag", "queues")
    assert (
        "QUEUE_OVERRIDES names 'orders.1', a shard, and shards have no options of their own"
        in found.err + found.out
    )

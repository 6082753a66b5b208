"""``docs/deploy.md``, followed to the letter: its commands are typed, on real servers, while events are in flight."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.ops import shop_code
from tests.ops.documents import blocks, section
from tests.ops.notes import Typist, follow, steps
from tests.ops.shop import BrokerHost, Services, Shop, naming_namespace, open_shop
from tests.servers.cluster import RabbitCluster
from tests.servers.processes import REPOSITORY
from tests.servers.rabbitmq import RabbitServer
from tests.servers.rabbitmq_management import PASSWORD, USER

NOTES = (REPOSITORY / "docs" / "deploy.md").read_text()

UPGRADE = (
    "The first host",
    "A second host",
    "An upgrade, with events in flight",
)
QUEUES = ("Add a queue", "Drain and remove a queue")
TO_QUORUM = "From classic to quorum"
CLUSTER = "RabbitMQ, a cluster of three"
BACKLOG = "A backlog"


def files_in(text: str) -> dict[str, str]:
    """What the document shows of files, by path."""
    shown = [block for language in ("sh", "python") for block in blocks(text, language)]
    return {block.path: block.text for block in shown if block.path is not None}


SCRIPT = files_in(section(NOTES, "The first host"))


def release(
    queue: str = "letters", *, workers: str = "", queue_type: str = "quorum", **more: str
) -> dict[str, str]:
    """One that publishes to ``queue``; ``more`` are fields of its events."""
    usual = shop_code.WORKER.format(queue=queue, queue_type=queue_type)
    return {
        **SCRIPT,
        "shop/queue_processors.py": shop_code.HEAD + (workers or usual),
        "shop/letters.py": shop_code.SENDER.format(queue=queue, more=more),
    }


OpenShop = Callable[..., AbstractContextManager[Shop]]


@pytest.fixture
def shop_with(tmp_path: Path, postgres_database: str) -> OpenShop:
    """``shop_with(queue_url, management_address, files, "shop1", …)``: release 41, of these files, on these hosts."""

    def make(
        url: str, management_address: str, files: Mapping[str, str], *names: str
    ) -> AbstractContextManager[Shop]:
        parts = urlsplit(url)
        services = Services(
            database=postgres_database,
            queue=f"amqp://{USER}@{parts.netloc.rpartition('@')[2]}{parts.path}",
            management=f"http://{USER}@{management_address}",
            password=PASSWORD,
        )
        return open_shop(tmp_path, services, files, *names)

    return make


@pytest.fixture
def shop_at(shop_with: OpenShop, rabbit_vhost: str, rabbit_server: RabbitServer) -> OpenShop:
    """``shop_at(files, "shop1", …)``: with the session's broker."""
    return lambda files, *names: shop_with(rabbit_vhost, rabbit_server.management_address, files, *names)


def hosts_of(shop: Shop) -> dict[str, Typist]:
    return {"": shop.hosts[0], **{host.name: host for host in shop.hosts}}


def test_every_command_is_followed_by_one_of_these_tests() -> None:
    followed = [*UPGRADE, *QUEUES, TO_QUORUM, CLUSTER, BACKLOG]

    assert list(steps(NOTES)) == [step for title in followed for step in steps(section(NOTES, title))]
    assert len(list(steps(NOTES))) > 50


def test_two_hosts_are_set_up_upgraded_and_rolled_back(shop_at: OpenShop) -> None:
    if not naming_namespace():
        pytest.skip("two hosts on one need UTS namespaces, which are not allowed here")
    with shop_at(release(), "shop1", "shop2") as shop:
        workers = "".join(files_in(section(NOTES, UPGRADE[-1])).values())
        shop.add_release(42, release(workers=workers, country="abroad"))
        for title in UPGRADE:
            follow(section(NOTES, title), hosts_of(shop))
        shop.balance()
        assert not shop.ledger.duplicates
        assert shop.effects("country") == {None, "at home", "abroad"}, (
            "each release has had the other's events"
        )


def test_a_queue_is_added_in_place_of_another_which_is_drained_and_removed(shop_at: OpenShop) -> None:
    with shop_at(release(), "shop1") as shop:
        both = shop_code.WORKER.format(queue="letters", queue_type="quorum") + "".join(
            files_in(section(NOTES, "Rename a queue")).values()
        )
        shop.add_release(42, {**release("post", workers=both)})
        shop.add_release(43, release("post"))
        shop.begin()
        for title in QUEUES:
            follow(section(NOTES, title), hosts_of(shop))
        shop.balance()
        assert not shop.ledger.duplicates


def test_a_classic_queue_becomes_a_quorum_queue(
    shop_at: OpenShop, rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    with shop_at(release(queue_type="classic"), "shop1") as shop:
        shop.add_release(42, release())
        shop.begin()
        follow(section(NOTES, TO_QUORUM), hosts_of(shop))
        shop.await_load()
        assert rabbit_server.queue(rabbit_vhost, "letters")["type"] == "quorum"
        shop.balance()
        assert not shop.ledger.duplicates


def test_nodes_of_a_cluster_are_restarted_and_a_majority_is_missed(
    shop_with: OpenShop, rabbit_cluster: RabbitCluster
) -> None:
    rabbit_cluster.start()
    with rabbit_cluster.vhost() as url:
        nodes = list(rabbit_cluster.nodes.values())
        with shop_with(url, nodes[2].management_address, release(), "shop1") as shop:
            shop.begin()
            brokers = {f"rabbit{number}": BrokerHost(node, url) for number, node in enumerate(nodes, 1)}
            follow(section(NOTES, CLUSTER), {**hosts_of(shop), **brokers})
            shop.await_load()
            shop.balance()


def test_four_queues_are_behind_and_each_is_told_why(shop_at: OpenShop) -> None:
    files = {
        **SCRIPT,
        "shop/queue_processors.py": shop_code.TROUBLED,
        "shop/letters.py": shop_code.TROUBLED_SENDER,
    }
    beginning, *causes, afterwards = parts(section(NOTES, BACKLOG))
    with shop_at(files, "shop1") as shop:
        host, trouble = shop.hosts[0], shop.hosts[0].current / "trouble"
        shop.begin()
        trouble.mkdir()
        for what in ("bank", "scales"):
            (trouble / what).touch()
        host.type("supervisorctl stop shop_events_letters")
        try:
            for text in (beginning, *causes):
                for path, added in files_in(text).items():
                    with (host.current / path).open("a") as file:
                        file.write(added)
                follow(text, hosts_of(shop))
        finally:  # who hangs would not end either
            for what in ("bank", "scales"):
                (trouble / what).unlink()
        follow(afterwards, hosts_of(shop))
        shop.balance()


def parts(text: str) -> list[str]:
    """A section's beginning, and what stands under each of its titles."""
    return re.split(r"^### .+$", text, flags=re.MULTILINE)

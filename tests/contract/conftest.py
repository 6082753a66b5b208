"""Every transport that the contract suite runs against: one line each in ``TRANSPORTS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from pytest_django import DjangoDbBlocker

from tests.contract.harness import Harness, Party
from tests.servers.databases import use_database
from zerver.lib import clock
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.database import DatabaseTransport
from zerver.lib.transport.immediate import ImmediateTransport
from zerver.lib.transport.rabbitmq import RabbitTransport
from zerver.lib.transport.rabbitmq.address import parse_address

Factory = Callable[[pytest.FixtureRequest], AbstractContextManager[Harness]]

#: Longer than any lease that the tests' queues ask for.
LEASE_IS_OVER_MS = 600_000


def _on_database(url_fixture: str) -> Factory:
    @contextmanager
    def make(request: pytest.FixtureRequest) -> Iterator[Harness]:
        url = request.getfixturevalue(url_fixture)
        blocker: DjangoDbBlocker = request.getfixturevalue("django_db_blocker")
        with blocker.unblock(), use_database(url):
            harness = Harness(
                make_transport=lambda: DatabaseTransport("default"),
                lose=lambda party: _let_leases_end(),
                tells_release_from_loss=True,
            )
            yield harness
            harness.close()

    return make


def _let_leases_end() -> None:
    clock.offset_ms += LEASE_IS_OVER_MS  # put back by the ``harness`` fixture


def _on_rabbitmq(queue_type: str) -> Factory:
    @contextmanager
    def make(request: pytest.FixtureRequest) -> Iterator[Harness]:
        address = parse_address(request.getfixturevalue("rabbit_vhost"), None)
        queues: dict[str, QueueDeclaration] = {}
        harness = Harness(
            make_transport=lambda: RabbitTransport(address, queues.__getitem__),
            queues=queues,
            options={"queue_type": queue_type},
            lose=_drop_connection,
        )
        yield harness
        harness.close()

    return make


def _drop_connection(party: Party) -> None:
    party.transport.close()
    party.lane.close(0.1)  # which finds nobody to say goodbye to


@contextmanager
def _in_memory(request: pytest.FixtureRequest) -> Iterator[Harness]:
    transport = ImmediateTransport(None)
    harness = Harness(make_transport=lambda: transport)
    yield harness
    harness.close()


TRANSPORTS: dict[str, Factory] = {
    "database-sqlite": _on_database("sqlite_database"),
    "database-postgres": _on_database("postgres_database"),
    "rabbitmq": _on_rabbitmq("quorum"),
    "rabbitmq-classic": _on_rabbitmq("classic"),
    "immediate": _in_memory,
}


@pytest.fixture(params=list(TRANSPORTS))
def harness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """The transport under test, with nothing in it."""
    monkeypatch.setattr(clock, "offset_ms", clock.offset_ms)  # whatever the test makes of it, it is put back
    with TRANSPORTS[request.param](request) as made:
        yield made

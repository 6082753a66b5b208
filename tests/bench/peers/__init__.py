"""Everybody who is measured, by name."""

from __future__ import annotations

from tests.bench.peer import Peer
from tests.bench.peers.c import C
from tests.bench.peers.celery import CeleryPrefork, CelerySolo
from tests.bench.peers.dramatiq import Dramatiq
from tests.bench.peers.embedded import (
    DjangoQ2,
    DjangoTasksDb,
    Huey,
    Procrastinate,
    ZerverOnPostgres,
    ZerverOnSqlite,
)
from tests.bench.peers.faststream import FastStream
from tests.bench.peers.limits import Django, InsertOnPostgres, InsertOnSqlite
from tests.bench.peers.on_commit import CeleryOnCommit, PotatoqOnCommit
from tests.bench.peers.pika import Pika
from tests.bench.peers.potatoq import Potatoq
from tests.bench.peers.prefetch import ByPace, Fixed1, Fixed100, Fixed1000
from tests.bench.peers.taskiq import Taskiq
from tests.bench.peers.zerver import Zerver, ZerverCoroutines, ZerverThreads

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Zerver(),
        ZerverThreads(),
        ZerverCoroutines(),
        ByPace(),
        Fixed1(),
        Fixed100(),
        Fixed1000(),
        Pika(),
        CelerySolo(),
        CeleryPrefork(),
        Dramatiq(),
        Taskiq(),
        FastStream(),
        Potatoq(),
        C(),
        CeleryOnCommit(),
        PotatoqOnCommit(),
        ZerverOnSqlite(),
        ZerverOnPostgres(),
        Huey(),
        DjangoTasksDb(),
        DjangoQ2(),
        Procrastinate(),
        Django(),
        InsertOnSqlite(),
        InsertOnPostgres(),
    )
}

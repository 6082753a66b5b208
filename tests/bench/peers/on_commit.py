"""Peers in a Django project of their own, which publish once the transaction has committed."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.peer import Peer
from tests.bench.peers.celery import CelerySolo
from tests.bench.peers.potatoq import Potatoq
from tests.bench.setting import Setting

SETTINGS = "tests.bench.apps.django_settings"


class InDjango(Peer):
    """For the bases of another peer."""

    needs = ("rabbitmq", "postgresql")

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        return {**super().environment(setting, env), "DJANGO_SETTINGS_MODULE": SETTINGS}

    def migrations(self) -> list[list[str]]:
        return [[str(self.python), "-m", "django", "migrate", "--verbosity=0"]]


class CeleryOnCommit(InDjango, CelerySolo):
    name = "celery-on-commit"
    title = "Celery, delay_on_commit"
    settings = (*CelerySolo.settings, "delay_on_commit(), sent confirmed after the commit; solo pool")
    packages = (*CelerySolo.packages, "django", "psycopg")
    app = "tests.bench.apps.celery_django_app"


class PotatoqOnCommit(InDjango, Potatoq):
    name = "potatoq-on-commit"
    title = "potatoq, on commit"
    settings = (*Potatoq.settings, "potatoq.contrib.django: delay() inside atomic() is sent after the commit")
    packages = (*Potatoq.packages, "django", "psycopg")
    app = "tests.bench.apps.potatoq_django_app"

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        return {**super().environment(setting, env), "BENCH_DJANGO_APPS": "potatoq.contrib.django"}

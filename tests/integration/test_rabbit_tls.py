"""amqps: the broker's certificate is verified, always."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.integration.checkup import check, only
from tests.integration.rabbit import AMPLE_SECONDS, Consumer, event, fates, open_transport
from tests.servers.databases import TestDatabase
from tests.servers.ports import free_port, release_port
from tests.servers.rabbitmq import RabbitServer
from zerver.lib.transport import current
from zerver.lib.transport.base import Fate


def make_certificates(directory: Path) -> None:
    """An authority, and a broker's certificate for localhost signed by it."""
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


@pytest.mark.parametrize("queue_database", ["sqlite"], indirect=True)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_a_broker_is_believed_only_with_a_certificate_of_a_known_authority_for_its_name(
    start_rabbit_server: Callable[..., RabbitServer],
    settings: Settings,
    queue_database: TestDatabase,
    tmp_path: Path,
) -> None:
    make_certificates(tmp_path)
    port = free_port()
    start_rabbit_server(
        conf={
            "listeners.ssl.1": f"127.0.0.1:{port}",
            "ssl_options.cacertfile": str(tmp_path / "ca.pem"),
            "ssl_options.certfile": str(tmp_path / "server.pem"),
            "ssl_options.keyfile": str(tmp_path / "server.key"),
        }
    )
    known = f"?cafile={tmp_path / 'ca.pem'}"
    with open_transport(f"amqps://guest:guest@localhost:{port}/{known}") as transport:
        assert (
            fates(transport.publish([event(n) for n in range(1000)], AMPLE_SECONDS)) == [Fate.STORED] * 1000
        )
        consumer = Consumer(transport)
        assert len(consumer.bodies(90)) == 90
        consumer.close()
    own = f"{known}&certfile={tmp_path / 'server.pem'}&keyfile={tmp_path / 'ca.key'}"
    (tmp_path / "empty.pem").touch()
    for url, told, mend in (
        (f"localhost:{port}/", "certificate verify failed", "let cafile in QUEUE_URL (amqps://…"),
        (f"127.0.0.1:{port}/{known}", "not valid for '127.0.0.1'", "write in QUEUE_URL the host name that"),
        (
            f"localhost:{port}/?cafile=/nowhere.pem",
            "cafile /nowhere.pem cannot be read (No such file or directory)",
            "let cafile in QUEUE_URL name PEM files that are there",
        ),
        (
            f"localhost:{port}/?cafile={tmp_path}/empty.pem",
            "/empty.pem cannot be read",
            "let cafile in QUEUE_URL",
        ),
        (f"localhost:{port}/{own}", "/server.pem, keyfile", "let certfile and keyfile in QUEUE_URL name"),
    ):
        url = f"amqps://guest:guest@{url}"
        settings.QUEUE_URL = url
        found = only(check("--only", "broker"), "broker.unreachable")
        assert told in found["what"]
        assert found["mend"].startswith(mend)
        current.close_all()
        with open_transport(url) as transport:
            (answer,) = transport.publish([event()], AMPLE_SECONDS)
            assert answer.fate is Fate.REFUSED
            assert told in answer.problem
    release_port(port)

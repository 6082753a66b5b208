"""amqps: the broker's certificate is verified, always."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.rabbit import AMPLE_SECONDS, Consumer, event, fates, open_transport
from tests.servers.ports import free_port, release_port
from tests.servers.rabbitmq import RabbitServer
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


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_a_broker_is_believed_only_with_a_certificate_of_a_known_authority_for_its_name(
    start_rabbit_server: Callable[..., RabbitServer], tmp_path: Path
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
    for url, told in (
        (f"amqps://guest:guest@localhost:{port}/", "certificate verify failed"),
        (f"amqps://guest:guest@127.0.0.1:{port}/{known}", "127.0.0.1"),
        (f"amqps://guest:guest@localhost:{port}/?cafile=/nowhere.pem", "No such file"),
    ):
        with open_transport(url) as transport:
            (answer,) = transport.publish([event()], AMPLE_SECONDS)
            assert answer.fate is Fate.REFUSED
            assert told in answer.problem
    release_port(port)

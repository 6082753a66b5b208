"""QUEUE_URL taken apart: what is accepted, and how what is not is told."""

from __future__ import annotations

from pathlib import Path
from traceback import walk_tb

import pytest

from zerver.lib.errors import AuthenticationRefused, InvalidSetting
from zerver.lib.transport.rabbitmq.address import parse_address


@pytest.mark.parametrize(
    ("url", "hosts", "user", "password", "virtual_host"),
    [
        ("amqp://h", (("h", 5672),), "guest", "guest", "/"),
        ("amqp://h/", (("h", 5672),), "guest", "guest", "/"),
        ("amqp://h/%2F", (("h", 5672),), "guest", "guest", "/"),
        ("amqps://h/shop", (("h", 5671),), "guest", "guest", "shop"),
        ("amqp://u:p@h1:5673,h2/v", (("h1", 5673), ("h2", 5672)), "u", "p", "v"),
        ("amqp://u%40x:p%3A%2F%40@h/a%2Fb", (("h", 5672),), "u@x", "p:/@", "a/b"),
        ("amqp://u:p@ss@h", (("h", 5672),), "u", "p@ss", "/"),
        ("amqp://u:@h", (("h", 5672),), "u", "", "/"),
        ("amqp://[::1]:1,[fe80::1%25e0],a:2", (("::1", 1), ("fe80::1%e0", 5672), ("a", 2)), "guest", "guest", "/"),
    ],
)  # fmt: skip
def test_urls_are_read(url: str, hosts: object, user: str, password: str, virtual_host: str) -> None:
    address = parse_address(url)
    assert (address.hosts, address.user, address.password) == (hosts, user, password)
    assert address.virtual_host == virtual_host
    assert address.uses_tls is url.startswith("amqps")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://h", "does not begin with amqp"),
        ("amqp:h", "does not begin with amqp"),
        ("amqp://", "has no host"),
        ("amqp://u:s3cret@", "has no host"),
        ("amqp://u:s3cret@h1,,h2", "an empty one (number 2)"),
        ("amqp://u:s3cret@h:port", "port after the : of host number 1"),
        ("amqp://u:s3cret@a,h:70000", "port after the : of host number 2"),
        ("amqp://u:s3cret@h:0", "write 1 to 65535"),
        ("amqp://u:s3cret@h:", "write 1 to 65535"),
        ("amqp://u:s3cret@::1", "where a host should stand"),
        ("amqp://u:s3cret@[::1", "where a host should stand"),
        ("amqp://u:s3cret@h/a/b", "%2F"),
        ("amqp://u:s3cret/s3cret@h", "@ after a / or ?"),
        ("amqp://u:s3cret?s3cret@h/v", "@ after a / or ?"),
        ("amqp://u:s3cret%@h", "write a bare % as %25"),
        ("amqp://u:s3cret", "port after the : of host number 1"),
        ("amqp://u:s3cret.host:5672/", "port after the : of host number 1"),
        ("amqp://u:s3cret,host", "port after the : of host number 1"),
        ("amqp://[s3cret:5672", "where a host should stand (number 1)"),
        ("amqp://h?s3cret", "has an unknown option (number 1)"),
        ("amqp://h?heartbeat=s3cret", "the value of its heartbeat"),
        ("amqp://h?connection_timeout=s3cret", "the value of its connection_timeout"),
        ("amqp://u:s3cret@h?heartbeats=3", "options are heartbeat, connection_timeout"),
        ("amqp://u:s3cret@h?heartbeat=soon", "whole seconds"),
        ("amqp://u:s3cret@h?heartbeat=0", "whole seconds"),
        ("amqp://u:s3cret@h?connection_timeout=-1", "seconds above 0"),
        ("amqp://u:s3cret@h?cafile=/ca.pem", "amqps://"),
    ],
)
def test_what_is_wrong_is_told_and_the_password_is_not(url: str, told: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_address(url)
    assert told in str(caught.value)
    assert caught.value.name == "QUEUE_URL"
    assert caught.value.__context__ is None
    # Error pages show every frame; the first is this test's.
    frames = [frame.f_locals for frame, _ in walk_tb(caught.value.__traceback__)][1:]
    assert "s3cret" not in f"{caught.value} {frames}"


def test_options_are_read() -> None:
    address = parse_address("amqps://h/v?heartbeat=20&connection_timeout=2.5&cafile=%2Fca.pem")
    assert address.heartbeat_seconds == 20
    assert address.connection_timeout_seconds == 2.5
    assert address.cafile == Path("/ca.pem")


def test_attempts_walk_over_the_hosts_and_carry_a_name() -> None:
    address = parse_address("amqp://u:p@h1,h2")
    tried = [address.parameters(attempt, "worker parcels") for attempt in range(3)]
    assert [parameters.host for parameters in tried] == ["h1", "h2", "h1"]
    assert tried[0].client_properties["connection_name"].startswith("zerver worker parcels ")
    assert tried[0].heartbeat == 30
    assert address.parameters(0, "x", heartbeat_seconds=0).heartbeat == 0


def test_the_password_file_is_read_each_time_and_told_when_it_cannot_be(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    address = parse_address("amqp://u:ignored@h", secret)
    with pytest.raises(AuthenticationRefused, match="password file cannot be read"):
        address.parameters(0, "x")
    for password in ("one", " two "):
        secret.write_text(password + "\n")
        assert address.parameters(0, "x").credentials.password == password


def test_tls_verifies_the_host() -> None:
    context = parse_address("amqps://h").parameters(0, "x").ssl_options.context
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_no_representation_shows_the_password() -> None:
    address = parse_address("amqp://u:s3cret@h:1,[::1]")
    assert "s3cret" not in repr(address)
    assert str(address) == "h:1,[::1]:5672"

"""Which way the broker is asked, where it is, and with which login: options."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from zerver.nagios.broker import DEFAULT_USER, Broker, Login, Place

_PORTS = {False: 5672, True: 5671}


def add_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "the broker",
        "asked over AMQP, unless another way is given; rabbitmqctl for root who says nothing of it",
    )
    group.add_argument("-H", "--hostname", metavar="HOST", help="or several, comma-separated (localhost)")
    group.add_argument("-p", "--port", type=int, help="(5672; 5671 with --tls)")
    group.add_argument("-u", "--username", metavar="USER", help=f"({DEFAULT_USER})")
    group.add_argument(
        "--password-file", type=Path, metavar="PATH", help="holds the password, and nothing else"
    )
    group.add_argument("--vhost", default="/", metavar="NAME", help="(%(default)s)")
    group.add_argument("--tls", action="store_true", help="and verify the broker's certificate")
    group.add_argument("--cafile", type=Path, metavar="PATH", help="an authority other than the system's")
    way = group.add_mutually_exclusive_group()
    way.add_argument("--management-url", metavar="URL", help="ask the management API: https://host:15671")
    way.add_argument("--rabbitmqctl", action="store_true", help="ask rabbitmqctl, as root or rabbitmq")


def broker_of(options: Namespace, usage: Callable[[str], None]) -> Broker:
    """``usage`` ends the plugin over options that make no sense together."""
    _refuse_nonsense(options, usage)
    place = Place(
        hosts=(options.hostname or "localhost").split(","),
        port=options.port or _PORTS[options.tls],
        virtual_host=options.vhost,
        login=Login(user=options.username or DEFAULT_USER, password_file=options.password_file),
        uses_tls=options.tls,
        cafile=options.cafile,
    )
    # Each imports what it alone needs, and that takes longer than all the rest.
    if options.management_url:
        from zerver.nagios.management_api import ManagementApi

        return ManagementApi(options.management_url, place)
    if options.rabbitmqctl or _is_roots_own(options):
        from zerver.nagios.rabbitmqctl import Rabbitmqctl

        return Rabbitmqctl(options.vhost)
    from zerver.nagios.amqp import Amqp

    return Amqp(place)


def _is_roots_own(options: Namespace) -> bool:
    """Root who has said nothing of where the broker is and who asks: it is on this host, and root may ask it."""
    said = (options.hostname, options.port, options.username, options.password_file)
    return os.geteuid() == 0 and not any(said) and not options.tls


def _refuse_nonsense(options: Namespace, usage: Callable[[str], None]) -> None:
    if options.username and options.username != DEFAULT_USER and not options.password_file:
        usage("--username wants --password-file: a password on the command line would be in process listings")
    if options.port is not None and not 0 < options.port < 65536:
        usage("--port: give 1 to 65535")
    if options.hostname is not None and not all(options.hostname.split(",")):
        usage("--hostname: give a host, or several with commas between them")
    if options.cafile and not (options.tls or (options.management_url or "").startswith("https:")):
        usage("--cafile is of --tls and of https")
    address = (options.hostname, options.port, options.tls or None)
    if options.rabbitmqctl and any((*address, options.username, options.password_file)):
        usage("--rabbitmqctl asks this host's broker, without a login: -H, -p, --tls and -u are of AMQP")
    if options.management_url and any(address):
        usage("--management-url says where the broker is: -H, -p and --tls are of AMQP")
    if options.management_url and not _is_address(options.management_url):
        # Not quoted: there may be a password in it.
        usage(
            "--management-url: give https://host:15671, the user by --username, the password by --password-file"
        )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in url

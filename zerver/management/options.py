"""Types of commands' options: what argparse does not know, refused with what would be right."""

import getpass
import os
from argparse import ArgumentParser, ArgumentTypeError

from zerver.lib.printable import printable
from zerver.management.dev.address import Address


def seconds(text: str) -> float:
    """A length of time. Raises: ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 86_400:
        raise ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def whole_number(text: str) -> int:
    """Raises: ArgumentTypeError."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not value:
        raise ArgumentTypeError(f"{text!r} is no whole number above 0")
    return value


def address(text: str) -> Address:
    """``HOST:PORT``, ``[IPv6]:PORT``, or ``PORT`` of this host alone. Raises: ArgumentTypeError."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def add_by(parser: ArgumentParser) -> None:
    """``--by``, of commands that keep a record of who has done something."""
    parser.add_argument(
        "--by", metavar="NAME", type=_name, default=_os_user(), help="who does it; default: %(default)s"
    )


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # KeyError before Python 3.13: a user id without a name, as containers have
        return f"uid {os.getuid()}"


def _name(text: str) -> str:
    if not text.strip():
        raise ArgumentTypeError("the record would name nobody; leave it out, or say who")
    return printable(text)

"""Options that say where a project lives on a host, the same for every kind that needs to know."""

import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from pathlib import PurePosixPath

from django.conf import settings

from zerver.deployment.site import DEFAULT_NAME, DEFAULT_NICE, Site
from zerver.management.config.kind import Options

_PATHS = (
    ("--home", "the user's (/home/USER)"),
    ("--directory", "where manage.py is (HOME/deployments/current)"),
    ("--python", "the interpreter (DIRECTORY/.venv/bin/python)"),
)
_LOGS = ("--log-directory", "where their logs go (/var/log/NAME)")
#: See ``add_place``.
PLACE_FLAGS = ("--user", *(flag for flag, _ in _PATHS))
_SITE_FLAGS = ("--name", *PLACE_FLAGS, _LOGS[0], "--nice")


def add_name(parser: ArgumentParser) -> None:
    parser.add_argument("--name", default=DEFAULT_NAME, help="programs and files begin with it (%(default)s)")


def add_place(parser: ArgumentParser) -> None:
    """Who, and where; but not how it runs."""
    add_name(parser)
    parser.add_argument("--user", help="who runs them (NAME)")
    for flag, what in _PATHS:
        parser.add_argument(flag, type=PurePosixPath, metavar="PATH", help=what)


def add_site(parser: ArgumentParser, *, has_logs: bool = True) -> None:
    """``has_logs``: files of their own."""
    add_place(parser)
    if has_logs:
        flag, what = _LOGS
        parser.add_argument(flag, type=PurePosixPath, metavar="PATH", help=what)
    parser.add_argument("--nice", type=int, default=DEFAULT_NICE, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--environment",
        type=_variable,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable that all of them get, and no secret; may be given again",
    )


def site_of(options: Options) -> Site:
    """Raises: UnfitValue."""
    names = map(_name_of, _SITE_FLAGS)
    given = {name: options[name] for name in names if name in options}
    return Site.derived(environment=dict(options.get("environment", [])), **given)


def is_any_given(options: Options, flags: Iterable[str]) -> bool:
    """Of flags that are None where nobody said."""
    return any(options[_name_of(flag)] is not None for flag in flags)


def _name_of(flag: str) -> str:
    """Among the options, as argparse makes it."""
    return flag.removeprefix("--").replace("-", "_")


def left_out(options: Options) -> list[str]:
    """What this command was told by its environment, and what it is about would not be. By names: a URL may hold a
    password.
    """
    given = dict(options["environment"])
    lacking = [
        name
        for name in ("QUEUE_URL", "QUEUE_PASSWORD_FILE", "QUEUE_OVERRIDES", "QUEUE_STATE_DIR")
        if os.environ.get(name) and name not in given and not hasattr(settings, name)
    ]
    return [
        f"{name} is of this environment alone: --environment={name}=… puts it into the file"
        for name in lacking
    ]


def _variable(text: str) -> tuple[str, str]:
    name, has_value, value = text.partition("=")
    if not has_value:
        # Not quoted: it may be a secret that was mistyped.
        raise ArgumentTypeError("give NAME=VALUE")
    return name, value

"""Where a project lives on a host, and as whom it runs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Self

from zerver.deployment.errors import UnfitValue

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What supervisord, systemd, cron, Nagios and shells all carry as it is. As ``Zulip::Path`` has it.
_PATH = re.compile(r"(/(?!\.?(/|$))[A-Za-z0-9_.+@:,=~-]+)+")
#: What they would each read in ways of their own.
_UNFIT = re.compile(r"""["'\\%$`\0-\x1f\x7f-\x9f]""")
#: supervisord reads no further than this, within quotes too.
_COMMENT = re.compile(r"\s[;#]")
#: ``scheme://user:password@host``; a password that nobody has quoted may have any character. Or libpq's own way.
_PASSWORD = re.compile(r"://[^@\s]*:.*@|\bpassword=", re.DOTALL | re.IGNORECASE)
#: What is called so is one, whatever it looks like; ``QUEUE_PASSWORD_FILE`` names where one is.
_SECRET_NAME = re.compile(
    r".*(PASSWORD|PASSWD|PASSPHRASE|SECRET(_ACCESS)?(_KEY)?|TOKEN|API_KEY|PRIVATE_KEY)"
    r"|(.*_)?(PG)?PASS|QUEUE_BODY_KEYS",
    re.IGNORECASE,
)

DEFAULT_NAME = "zulip"
DEFAULT_NICE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Raises: UnfitValue."""

    #: Programs are called after it: ``zulip_events_user_activity``.
    name: str
    user: str
    #: The user's; supervisord leaves root's in the environment.
    home: PurePosixPath
    #: Where ``manage.py`` is.
    directory: PurePosixPath
    #: The interpreter that has the project's packages.
    python: PurePosixPath
    log_directory: PurePosixPath
    nice: int
    #: Of each program, beside HOME and USER.
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def derived(
        cls,
        *,
        name: str = DEFAULT_NAME,
        user: str | None = None,
        home: PurePosixPath | None = None,
        directory: PurePosixPath | None = None,
        python: PurePosixPath | None = None,
        log_directory: PurePosixPath | None = None,
        nice: int = DEFAULT_NICE,
        environment: Mapping[str, str],
    ) -> Self:
        """What is None follows from what is given, as the puppet module's parameters do. Raises: UnfitValue."""
        user = name if user is None else user
        home = home or PurePosixPath("/root" if user == "root" else f"/home/{user}")
        directory = directory or home / "deployments/current"
        return cls(
            name=name,
            user=user,
            home=home,
            directory=directory,
            python=python or directory / ".venv/bin/python",
            log_directory=log_directory or PurePosixPath(f"/var/log/{name}"),
            nice=nice,
            environment=environment,
        )

    @property
    def variables(self) -> list[tuple[str, str]]:
        """Names and values, in the order of the names."""
        return sorted({"HOME": str(self.home), "USER": self.user, **self.environment}.items())

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("user", self.user)):
            if not _NAME.fullmatch(value):
                raise UnfitValue(
                    what, value, "use lower-case letters, digits, _ and -, a letter first, at most 32"
                )
        for what, path in (
            ("home", self.home),
            ("directory", self.directory),
            ("python", self.python),
            ("log directory", self.log_directory),
        ):
            check_path(what, path)
        if not -20 <= self.nice <= 19:
            raise UnfitValue("nice", str(self.nice), "give a number from -20 to 19")
        for variable, value in self.environment.items():
            _check_variable(variable, value)


def check_path(what: str, path: PurePosixPath) -> None:
    """Raises: UnfitValue."""
    if not _PATH.fullmatch(str(path)):
        raise UnfitValue(what, str(path), "give an absolute path of letters, digits and _.+@:,=~-")


def _check_variable(variable: str, value: str) -> None:
    if not _VARIABLE.fullmatch(variable):
        raise UnfitValue("environment variable", variable, "use letters, digits and _, no digit first")
    # Values are not quoted, here or below: they would be in logs.
    if _SECRET_NAME.fullmatch(variable) or _PASSWORD.search(value):
        raise UnfitValue(
            "environment variable",
            variable,
            "it holds a secret, and the file is none: see QUEUE_PASSWORD_FILE and QUEUE_BODY_KEYS_FILE",
        )
    if _UNFIT.search(value):
        raise UnfitValue(
            "environment variable",
            variable,
            "its value has a quote, %, $, a backslash, a tab or a line's end",
        )
    if _COMMENT.search(value):
        raise UnfitValue(
            "environment variable", variable, "its value has a ; or # after a space, where a comment begins"
        )

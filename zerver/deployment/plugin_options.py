"""What may be passed on to the plugins for Nagios: their own parsers are asked, before cron asks them every minute."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import NoReturn

from zerver.deployment.errors import UnfitValue
from zerver.nagios import broker_options, database_options
from zerver.nagios.check_queue_worker_errors import CheckWorkerErrors
from zerver.nagios.plugin import is_reversed, range_of, seconds_of


class OptionParser(ArgumentParser):
    """Raises UnfitValue where the plugin itself would end over wrong usage."""

    def __init__(self, what: str) -> None:
        super().__init__(prog=what, add_help=False, allow_abbrev=False)
        self._given = ""

    @property
    def names(self) -> list[str]:
        return [f"--{name.replace('_', '-')}" for name in vars(self.parse_args([]))]

    def parsed(self, options: Sequence[str]) -> Namespace:
        """Of what is at fault the name is shown, and no value but where argparse finds it wrong itself."""
        self._given = " ".join(_name(option) for option in options)
        parsed, unknown = self.parse_known_args(options)
        if unknown:
            raise UnfitValue(self.prog, _name(unknown[0]), f"give of {', '.join(self.names)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UnfitValue(f"{self.prog}s", self._given, message)


def broker_parser() -> OptionParser:
    """Of what all plugins know that ask the broker."""
    parser = OptionParser("broker option")
    broker_options.add_options(parser)
    parser.add_argument("--timeout", type=seconds_of)
    return parser


def database_parser() -> OptionParser:
    """And the thresholds: they have no place in the declarations, as those of the others do."""
    parser = OptionParser("database option")
    for name in ("--warning", "--critical"):
        parser.add_argument(name, type=range_of)
    CheckWorkerErrors().add_arguments(parser)
    parser.add_argument("--timeout", type=seconds_of)
    return parser


def check_broker_options(options: Sequence[str]) -> None:
    """Raises: UnfitValue."""
    parser = broker_parser()
    broker_options.broker_of(parser.parsed(options), parser.error)


def check_database_options(options: Sequence[str]) -> None:
    """Raises: UnfitValue."""
    parser = database_parser()
    parsed = parser.parsed(options)
    if is_reversed(parsed.warning, parsed.critical):
        parser.error("--warning would never be told, for --critical comes first")
    database_options.database_of(parsed, parser.error)


def _name(option: str) -> str:
    return option.partition("=")[0]

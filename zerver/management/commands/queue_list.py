"""Every declared queue, and what was declared of it."""

from argparse import ArgumentParser
from dataclasses import asdict, fields
from typing import Any

from zerver.lib.backoff import RetryPolicy
from zerver.lib.registry import OPTIONS, QueueDeclaration, queues
from zerver.management.base import QueueCommand
from zerver.management.output import Column

_DEFAULTS = {item.name: item.default for item in fields(QueueDeclaration)}
_COLUMNS = [Column("queue"), Column("worker", is_long=True), Column("event", leaves=1), Column("options")]


class Command(QueueCommand):
    """``--json``: ``{"queues": [{"queue", "module", "worker", "event", "declared": {option: value}, "overrides":
    {option: value}, "effective": {option: value}}], "broken_modules": {module: why}}``; ``retry`` is an object.
    """

    help = (
        "Lists every declared queue: its worker, its event's type, and the options that are not the default."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="test queues too")
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        found = queues.families(test_queues=options["all"])
        if options["json"]:
            self.write_json(
                {
                    "queues": [_as_json(queue) for queue in found],
                    "broken_modules": dict(queues.broken_modules),
                }
            )
            return
        rows = [[queue.name, _worker(queue), queue.event_type.name, _told_options(queue)] for queue in found]
        self.write_table(_COLUMNS, rows, empty="no queue is declared")
        self.warn_of_broken_modules()


def _as_json(queue: QueueDeclaration) -> dict[str, Any]:
    declared, effective = _options(queues.declared(queue.name)), _options(queue)
    overridden = queues.overrides.get(queue.name, {})
    return {
        "queue": queue.name,
        "module": queue.module,
        "worker": queues.worker_class(queue.name).__qualname__,
        "event": queue.event_type.name,
        "declared": declared,
        "overrides": {name: effective[name] for name in overridden},
        "effective": effective,
    }


def _options(queue: QueueDeclaration) -> dict[str, Any]:
    return {name: _plain(getattr(queue, name)) for name in OPTIONS}


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, RetryPolicy) else value


def _worker(queue: QueueDeclaration) -> str:
    return f"{queue.module}.{queues.worker_class(queue.name).__qualname__}"


def _told_options(queue: QueueDeclaration) -> str:
    """What is not the default, and ``declared -> effective`` where the environment overrides it."""
    declared, overridden = queues.declared(queue.name), queues.overrides.get(queue.name, {})
    told = []
    for name in OPTIONS:
        before, now = getattr(declared, name), getattr(queue, name)
        if name in overridden:
            told.append(f"{name}={_short(before)} -> {_short(now)}")
        elif now != _default(name):
            told.append(f"{name}={_short(now)}")
    return ", ".join(told)


def _default(name: str) -> Any:
    return RetryPolicy() if name == "retry" else _DEFAULTS[name]


def _short(value: Any) -> str:
    """A retry policy by what is not its default: ``retry(max_attempts=3)``."""
    if not isinstance(value, RetryPolicy):
        return str(value)
    usual = asdict(RetryPolicy())
    changed = [f"{name}={item}" for name, item in asdict(value).items() if item != usual[name]]
    return f"({', '.join(changed) or 'default'})"

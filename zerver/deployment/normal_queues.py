"""The one list of queues, and whether a scheduler is there, as puppet reads it: between two marks of a manifest."""

from collections.abc import Sequence

from zerver.deployment.programs import QueueProgram
from zerver.lib.errors import ConfigurationError

BEGIN = "  # begin: written by ./manage.py queue_config normal-queues --write\n"
END = "  # end\n"


class NoPlaceForQueues(ConfigurationError):
    """The manifest has no marks between which the list could stand."""

    def __init__(self) -> None:
        super().__init__(
            f"it has no place for the list: put the lines {BEGIN.strip()!r} and {END.strip()!r} into the class, "
            "once each and indented by two spaces"
        )


def render(programs: Sequence[QueueProgram], *, has_scheduler: bool) -> str:
    names = "".join(f"    '{program.queue}',\n" for program in programs)
    facts = "".join(f"    '{program.queue}' => {_facts(program)},\n" for program in programs)
    return (
        f"{BEGIN}  $normal_queues = [\n{names}  ]\n"
        "  # What is declared of each: worker processes, and handlers in each; how long one may take to drain, and\n"
        "  # for one event; and the backlog from which on to warn.\n"
        f"  $queue_declarations = {{\n{facts}  }}\n"
        "  # Whether the code has schedules, which queue_scheduler has tick.\n"
        f"  $has_scheduler = {str(has_scheduler).lower()}\n{END}"
    )


def _facts(program: QueueProgram) -> str:
    return (
        f"{{ 'workers' => {program.workers}, 'threads' => {program.threads}, 'stop_seconds' => {program.stop_seconds}, "
        f"'timeout_seconds' => {program.timeout_seconds}, "
        f"'warn_seconds' => {program.warn_seconds}, 'crit_seconds' => {program.crit_seconds} }}"
    )


def written_into(manifest: str, rendered: str) -> str:
    """The manifest with the list as it was rendered now. Raises: NoPlaceForQueues."""
    if manifest.count(BEGIN) != 1 or manifest.count(END) != 1:
        raise NoPlaceForQueues
    before, _, rest = manifest.partition(BEGIN)
    _, has_end, after = rest.partition(END)
    if not has_end:
        raise NoPlaceForQueues
    return before + rendered + after

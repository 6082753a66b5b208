"""What is declared of each queue, in a file for programs that import no Django.

Shape: ``{"format": 1, "queues": {queue: {"workers", "threads", "timeout_seconds", "warn_seconds", "crit_seconds"}}}``.
"""

from collections.abc import Sequence

from zerver.deployment.programs import QueueProgram
from zerver.nagios.declared import FORMAT


def render(programs: Sequence[QueueProgram]) -> str:
    queues = ",\n".join(
        f'    "{program.queue}": {{"workers": {program.workers}, "threads": {program.threads}, '
        f'"timeout_seconds": {program.timeout_seconds}, '
        f'"warn_seconds": {program.warn_seconds}, "crit_seconds": {program.crit_seconds}}}'
        for program in programs
    )
    return f'{{\n  "format": {FORMAT},\n  "queues": {{\n{queues}\n  }}\n}}\n'

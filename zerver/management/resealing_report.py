"""What is sealed with which key, in words."""

from collections.abc import Iterator, Sequence

from zerver.lib.counted import counted
from zerver.lib.resealing import Kind, Resealed, Sealed
from zerver.lib.vault import Vault
from zerver.management.output import Column

COLUMNS = [
    Column("key"),
    Column("place"),
    Column("waiting", is_number=True),
    Column("failed", is_number=True),
    Column("tasks", is_number=True),
    Column("what that means"),
]


def rows(sealed: Sequence[Sealed], bodies: Vault) -> Iterator[list[str]]:
    """A line for each key that is set or that has sealed something, the newest first."""
    unknown = sorted({each.key for each in sealed} - set(bodies.names))
    for name in (*bodies.names, *unknown):
        counts = [
            sum(each.count for each in sealed if each.key == name and each.kind in kinds)
            for kinds in ((Kind.WAITING,), (Kind.FAILED,), (Kind.TASK, Kind.RESULT))
        ]
        yield [name, _place(name, bodies), *map(str, counts), _meaning(name, sum(counts), bodies)]


def forecast(stale: int, sealed: Sequence[Sealed], bodies: Vault) -> str:
    """What would be done. ``stale``: how many rows are not as the newest key would have them."""
    others = [each for each in sealed if each.key != bodies.newest]
    # All of them are counted one after the other, while workers run.
    unsealed = max(0, stale - sum(each.count for each in others))
    told = f"would reseal {unsealed + sum(each.count for each in others if each.key in bodies.names)}"
    return f"{told}, {unsealed} of them not sealed at all" if unsealed else told


def problems(report: Resealed) -> Iterator[str]:
    """Why there is more to do."""
    if report.late:
        late = counted(report.late, "row")
        yield f"{late} came meanwhile from processes without the newest key: restart them, and run it again"
    if report.unreadable:
        yield f"not opened, and left as it is: {counted(report.unreadable, 'row')}"


def _place(name: str, bodies: Vault) -> str:
    if name == bodies.newest:
        return "newest"
    return "older" if name in bodies.names else f"not in {bodies.setting}"


def _meaning(name: str, count: int, bodies: Vault) -> str:
    if name not in bodies.names:
        return f"put it back at the end of {bodies.setting}: nobody else can read these"
    if name == bodies.newest:
        return "seals what is written"
    if count:
        return "still needed: ./manage.py queue_admin reseal"
    return "no longer needed, once every process has been restarted since it was the newest"

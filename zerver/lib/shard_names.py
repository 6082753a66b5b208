"""How the queues are called that a sharded queue, their family, stands for: ``orders.0``, ``orders.1`` of ``orders``.

No declared name has a dot in it, so a shard's never clashes with one. Standard library only: monitoring plugins import
this.
"""

import re
from typing import Final

#: As many looks find every shard that a queue has ever had, whatever number of them was declared.
MAX_SHARDS: Final = 256
LONGEST_NAME: Final = 63
#: So that the number of shards may grow without a new name.
LONGEST_FAMILY: Final = LONGEST_NAME - len(f".{MAX_SHARDS - 1}")

_SHARD = re.compile(r"[^.]+\.(0|[1-9][0-9]{0,2})")


def shard_name(family: str, number: int) -> str:
    return f"{family}.{number}"


def family_of(name: str) -> str:
    """Of a shard its family's name; of any other queue its own."""
    return name.partition(".")[0] if shard_number(name) is not None else name


def shard_number(name: str) -> int | None:
    """None: it is no shard's name."""
    found = _SHARD.fullmatch(name)
    return None if found is None else int(found[1])


def shards_named(family: str, shards: int) -> list[str]:
    return [shard_name(family, number) for number in range(shards)]


def possible_shards(family: str) -> list[str]:
    """Of every shard that it may ever have had; [] for a name that is too long to have any."""
    return shards_named(family, MAX_SHARDS) if len(family) <= LONGEST_FAMILY else []

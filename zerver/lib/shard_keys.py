"""Which shard an event belongs to: the same for every publisher, of whatever release and language. And which line.

``CRC-32(text) mod shards``, the text being the key as UTF-8: a string as it is, a whole number in decimal digits. The
CRC-32 is that of zlib, gzip and PNG, which every language has; ``1`` and ``"1"`` are one key.
"""

import hashlib
import zlib
from functools import cache
from typing import Any, Final

import msgspec

from zerver.lib.errors import ShardKeyUnusable

#: Where those stand that have no key.
ONE_LINE: Final = 0


def shard_of(key: str | int, shards: int) -> int:
    """Shape: 0 to shards - 1."""
    return zlib.crc32(str(key).encode()) % shards


def line_of(key: str | int | None) -> int:
    """Which line of an ordered queue a key stands for: a hash, which fits an index and tells nobody the key.

    Two keys of one hash are one line, which costs them speed alone; of a million keys, two are so in one case of 18
    million.
    Shape: 0 to 2**63 - 1.
    """
    if key is None:
        return ONE_LINE
    return int.from_bytes(hashlib.blake2b(str(key).encode(), digest_size=8).digest()) >> 1


def key_of(queue: str, body: bytes, path: str) -> str | int:
    """What the body says at a path of names with dots between them.

    It is read from the JSON that travels: so typed events, renamed fields and events from elsewhere are all alike.

    Raises: ShardKeyUnusable when there is none, or it is neither a string nor a whole number.
    """
    try:
        found = _decoder(path).decode(body)
        for _ in path.split("."):
            found = found.inner
    except msgspec.ValidationError as error:
        # It names types and fields, and quotes no values.
        raise ShardKeyUnusable(queue, path, str(error)) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ShardKeyUnusable(queue, path, "the event is not JSON") from error
    key: str | int = found
    return key


@cache
def _decoder(path: str) -> "msgspec.json.Decoder[Any]":
    """Reads that one field and passes over all others, in half a microsecond."""
    inner: Any = str | int
    for name in reversed(path.split(".")):
        inner = msgspec.defstruct("Keyed", [("inner", inner, msgspec.field(name=name))])
    return msgspec.json.Decoder(inner)

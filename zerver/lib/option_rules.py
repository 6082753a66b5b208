"""What the options of a queue must be, each by itself and together."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from zerver.lib.backoff import RetryPolicy
from zerver.lib.shard_names import LONGEST_FAMILY, LONGEST_NAME, MAX_SHARDS, family_of

#: Options that mean something only to workers that take batches, and only to those with coroutines.
OF_BATCHES: Final = ("batch_size", "batch_seconds")
OF_COROUTINES: Final = ("concurrency",)

#: A declared name, or a shard's.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.(0|[1-9][0-9]{0,2}))?")

_AT_LEAST_ONE: Final = ("workers", "threads", "concurrency", "prefetch", "batch_size", "ack_batch")
#: A process with more threads does nothing but change between them; and AMQP counts in two bytes what a consumer may
#: hold, which is twice as much as runs.
_AT_MOST: Final = {"threads": 1000, "concurrency": 32_767}
_OPTIONAL_AT_LEAST_ONE: Final = ("max_events", "max_rss_mb")
_ABOVE_ZERO: Final = ("batch_seconds", "timeout_seconds", "warn_seconds", "crit_seconds")
_FLAGS: Final = ("enabled", "is_test_queue", "transactional", "ordered")
#: One worker process with one handler at a shard: two at once would keep no order.
_ONE_AT_A_SHARD: Final = ("workers", "threads")

#: A declaration's fields by name. Types are looked at: what comes in is not checked by mypy.
Given = Mapping[str, Any]
#: What is wrong, and what would be right.
Problem = tuple[str, str]


def problems_of(given: Given) -> list[Problem]:
    """All that is wrong with a declaration; [] for one that makes sense."""
    found = [*_problems_of_values(given), *_problems_of_coroutines(given), *_problems_of_shards(given)]
    if found:
        return found
    found += _problems_of_order(given)
    if given["warn_seconds"] > given["crit_seconds"]:
        problem = f"warn_seconds={given['warn_seconds']!r} is over crit_seconds={given['crit_seconds']!r}"
        found.append((problem, "warn before it is critical: set both"))
    return found


def _problems_of_values(given: Given) -> Iterator[Problem]:
    """Each by itself."""
    name = given["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield "is no queue name", "use lower-case letters, digits and _, a letter first, at most 63"
    for option in _AT_LEAST_ONE + _OPTIONAL_AT_LEAST_ONE:
        value = given[option]
        if value is None and option in _OPTIONAL_AT_LEAST_ONE:
            continue
        if type(value) is not int or value < 1:
            yield f"{option}={value!r}", "give a whole number, 1 or more"
        elif value > _AT_MOST.get(option, math.inf):
            yield f"{option}={value!r}", f"give {_AT_MOST[option]} at most, and raise workers for more"
    for option in _ABOVE_ZERO:
        value = given[option]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value <= 0:
            yield f"{option}={value!r}", "give a number of seconds above 0"
    for option in _FLAGS:
        if not isinstance(given[option], bool):
            yield f"{option}={given[option]!r}", "give True or False"
    if type(given["max_crashes"]) is not int or given["max_crashes"] < 2:
        # An event that a dying process had merely prefetched comes again too; it must get its run.
        yield f"max_crashes={given['max_crashes']!r}", "give a whole number, 2 or more"
    if given["queue_type"] not in ("quorum", "classic"):
        yield f"queue_type={given['queue_type']!r}", "give 'quorum' or 'classic'"
    if not isinstance(given["redact"], tuple) or not all(map(_is_path, given["redact"])):
        yield f"redact={given['redact']!r}", 'give a list of names like ["password", "user.email", "*"]'
    if not isinstance(given["retry"], RetryPolicy):
        yield f"retry={given['retry']!r}", "give a RetryPolicy"


def _problems_of_coroutines(given: Given) -> Iterator[Problem]:
    if not given["is_async"]:
        return
    if given["threads"] != 1:
        problem = f"threads={given['threads']!r} with an async handler"
        yield problem, "say by concurrency how many run at once; they share one thread"
    if given["transactional"] is True:
        yield (
            "transactional=True with an async handler",
            "write it as a plain function: Django's transactions do not work in async code",
        )


def _problems_of_shards(given: Given) -> Iterator[Problem]:
    shards, key = given["shards"], given["shard_key"]
    if shards is None and key is None:
        return
    if shards is not None and (type(shards) is not int or not 1 <= shards <= MAX_SHARDS):
        yield f"shards={shards!r}", f"give a whole number from 1 to {MAX_SHARDS}"
        return
    if key is not None and not _is_path(key):
        yield f"shard_key={key!r}", 'give the name of a field, like "user_id" or "user.id"'
        return
    if key is None:
        yield f"shards={shards!r} without shard_key", "say by which field an event finds its shard"
    if shards is None and given["ordered"] is not True:
        yield (
            f"shard_key={key!r} without shards",
            "say how many (shards=1 is one queue, as without both), or ordered=True",
        )
    if shards is None or shards == 1:
        return
    for option in (*_ONE_AT_A_SHARD, *(OF_COROUTINES if given["is_async"] else ())):
        if given[option] != 1:
            yield (
                f"{option}={given[option]!r} with shards={shards}",
                f"write {option}=1: each shard has one worker process with one handler, or events of one key would "
                "overtake each other; for more at once raise shards",
            )
    if len(str(family_of(given["name"]))) > LONGEST_FAMILY:
        yield "is too long for a queue with shards", f"give it {LONGEST_FAMILY} characters at most"
    if given["event_type"].is_raw:
        yield f"shards={shards} of undecoded events", "annotate the handler's event with a type that is JSON"


def _problems_of_order(given: Given) -> Iterator[Problem]:
    """Of a declaration that makes sense without it."""
    if not given["ordered"]:
        return
    if given["shard_key"] is not None:
        if given["event_type"].is_raw:
            yield (
                f"shard_key={given['shard_key']!r} of undecoded events",
                "annotate the handler's event with a type that is JSON",
            )
        return
    if given["is_batch"]:
        yield (
            "ordered=True without shard_key, in batches",
            "say by which field events have an order: of each key a batch has one event, and here of all of them",
        )
    if given["threads"] != 1:
        yield (
            f"threads={given['threads']!r} with ordered=True and no shard_key",
            "say by which field events have an order, or leave threads out: one event runs at a time",
        )


def _is_path(value: object) -> bool:
    return isinstance(value, str) and all(value.split("."))

"""Shards: which one an event belongs to, for every publisher the same; their names; how they are declared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerver.lib.errors import InvalidDeclaration, ShardKeyUnusable, UnknownQueue, WrongShard
from zerver.lib.event import Event, EventType
from zerver.lib.registry import QueueDeclaration, QueueRegistry, shards_of, with_options
from zerver.lib.shard_keys import key_of, shard_of
from zerver.lib.shard_names import (
    LONGEST_FAMILY,
    LONGEST_NAME,
    MAX_SHARDS,
    family_of,
    possible_shards,
    shard_number,
)


class Worker:
    pass


def orders(shards: Any = 4, key: Any = "user_id", **options: Any) -> QueueDeclaration:
    return QueueDeclaration(name="orders", shards=shards, shard_key=key, **options)


def registry_of(*queues: QueueDeclaration) -> QueueRegistry:
    registry = QueueRegistry()
    for queue in queues:
        registry.declare(queue, Worker)
    return registry


# -- the hash


@pytest.mark.parametrize(
    ("key", "by_two", "by_four", "by_seven", "by_256"),
    [
        ("", 0, 0, 0, 0),
        ("a", 1, 3, 4, 67),
        ("user-42", 1, 3, 1, 115),
        ("Ünïcødé ☃", 0, 0, 6, 228),
        (0, 1, 1, 4, 33),
        (1, 1, 3, 2, 183),
        ("1", 1, 3, 2, 183),
        (-7, 1, 3, 1, 31),
        (2**63, 1, 3, 5, 79),
        (10**40, 0, 0, 5, 28),
        # The check value of CRC-32, 0xCBF43926, in every catalogue of them.
        ("123456789", 0, 2, 5, 38),
    ],
)
def test_the_hash_is_fixed_for_ever(
    key: str | int, by_two: int, by_four: int, by_seven: int, by_256: int
) -> None:
    """Whoever changes these numbers parts publishers and workers, and events of one key from each other."""
    assert [shard_of(key, shards) for shards in (2, 4, 7, 256)] == [by_two, by_four, by_seven, by_256]


@pytest.mark.parametrize("shards", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("form", ["{}", "{:08}", "user{}@example.org", "000-{}-x"])
def test_keys_as_people_number_them_are_spread_evenly(form: str, shards: int) -> None:
    counts = Counter(shard_of(form.format(number), shards) for number in range(6000))
    assert len(counts) == shards
    assert max(counts.values()) < 1.25 * 6000 / shards
    assert min(counts.values()) > 0.75 * 6000 / shards


@given(st.one_of(st.text(), st.integers()), st.integers(1, MAX_SHARDS))
def test_every_key_has_its_shard_whatever_its_json_looks_like(key: str | int, shards: int) -> None:
    escaped = msgspec.json.encode({"id": key}) if isinstance(key, int) else None
    body = escaped or ('{"pad": [1, {"id": 2}], "id": ' + msgspec.json.encode(key).decode() + "}").encode()
    assert key_of("orders", body, "id") == key
    assert 0 <= shard_of(key, shards) < shards


# -- the key


class TypedOrder(TypedDict):
    user_id: int


@dataclass
class DataOrder:
    user_id: str


class StructOrder(msgspec.Struct, rename={"user_id": "user-id"}):
    user_id: str


def test_the_key_is_read_from_the_json_that_travels() -> None:
    assert key_of("orders", msgspec.json.encode(TypedOrder(user_id=7)), "user_id") == 7
    assert key_of("orders", msgspec.json.encode(DataOrder("x")), "user_id") == "x"
    assert key_of("orders", msgspec.json.encode(StructOrder("y")), "user-id") == "y"
    assert key_of("orders", b'{"user": {"id": "z", "name": 1}, "id": 3}', "user.id") == "z"
    assert key_of("orders", rb'{"id": "\u00e9\/"}', "id") == "é/"


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"id": null}',
        b'{"id": true}',
        b'{"id": 1.0}',
        b'{"id": 1e2}',
        b'{"id": ["a"]}',
        b'{"id": {"id": 1}}',
        b'{"ID": 1}',
        b"[1]",
        b"null",
        b"",
        b"\xff",
        b'{"id": "\xff"}',
        b'{"id": 1' + b"0" * 5000 + b"}",
        b'{"a": ' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_an_event_without_a_usable_key_is_refused_by_the_path_and_without_its_values(body: bytes) -> None:
    with pytest.raises(ShardKeyUnusable) as refused:
        key_of("orders", body, "id")
    assert str(refused.value).startswith("event for queue 'orders' has no shard key: ")
    assert str(refused.value).endswith("; put a string or a whole number at 'id'")


def test_an_event_belongs_to_the_shard_of_its_key_and_nowhere_else() -> None:
    body = b'{"user_id": 1}'
    assert orders().place(body) == "orders.3"
    assert orders(shards=2).place(body) == "orders.1"
    assert orders(shards=1).place(b"no JSON") == "orders"
    assert QueueDeclaration(name="orders").place(b"no JSON") == "orders"
    shards = shards_of(orders())
    assert shards[3].place(body) == "orders.3"
    with pytest.raises(WrongShard, match=r"belongs to 'orders\.3' by its key; publish to 'orders'"):
        shards[2].place(body)


# -- names


def test_a_shard_is_called_after_its_family_and_its_number() -> None:
    assert [(shard.name, shard.family, shard.shard) for shard in shards_of(orders(shards=2))] == [
        ("orders.0", "orders", 0),
        ("orders.1", "orders", 1),
    ]
    assert shards_of(orders(shards=1)) == [orders(shards=1)]
    assert (family_of("orders"), shard_number("orders")) == ("orders", None)
    for name in ("orders.", "orders.01", "orders.-1", "orders.x", "a.b.1", ".1", "orders.1000"):
        assert (family_of(name), shard_number(name)) == (name, None)


def test_the_names_of_shards_fit_wherever_a_queue_s_name_does() -> None:
    longest = "q" * LONGEST_FAMILY
    assert max(map(len, possible_shards(longest))) == LONGEST_NAME
    assert QueueDeclaration(name=possible_shards(longest)[-1]).shard == MAX_SHARDS - 1
    assert len(shards_of(QueueDeclaration(name=longest, shards=MAX_SHARDS, shard_key="id"))) == MAX_SHARDS
    with pytest.raises(InvalidDeclaration, match="too long for a queue with shards; give it 59 characters"):
        QueueDeclaration(name=f"{longest}q", shards=2, shard_key="id")
    assert QueueDeclaration(name=f"{longest}q", shards=1, shard_key="id").name == f"{longest}q"
    assert possible_shards(f"{longest}q") == []


# -- declarations


@pytest.mark.parametrize("shards", [0, -1, 257, "two", 1.5, True, []])
def test_a_number_of_shards_that_makes_no_sense_is_refused(shards: Any) -> None:
    with pytest.raises(
        InvalidDeclaration, match=r"^queue 'orders': shards=.*; give a whole number from 1 to 256$"
    ):
        orders(shards=shards)


@pytest.mark.parametrize("key", ["", ".", "a..b", 3, ["user_id"], ("a",)])
def test_a_key_that_is_no_path_is_refused(key: Any) -> None:
    with pytest.raises(InvalidDeclaration, match=r"shard_key=.*; give the name of a field"):
        orders(key=key)


def test_shards_and_their_key_come_together() -> None:
    with pytest.raises(InvalidDeclaration, match="shards=4 without shard_key; say by which field"):
        orders(key=None)
    with pytest.raises(InvalidDeclaration, match="shard_key='user_id' without shards; say how many"):
        orders(shards=None)


@pytest.mark.parametrize("option", ["workers", "threads"])
def test_a_shard_has_one_worker_with_one_handler(option: str) -> None:
    with pytest.raises(
        InvalidDeclaration, match=f"{option}=2 with shards=4; write {option}=1: each shard has one worker"
    ):
        orders(**{option: 2})
    assert getattr(orders(shards=1, **{option: 2}), option) == 2


def test_events_that_nobody_decodes_have_no_shards() -> None:
    with pytest.raises(InvalidDeclaration, match="shards=4 of undecoded events"):
        orders(event_type=EventType(Event))


def test_a_shard_cannot_be_declared_by_itself() -> None:
    with pytest.raises(InvalidDeclaration, match=r"'orders\.1': is a shard's name; declare 'orders'"):
        registry_of(QueueDeclaration(name="orders.1"))


# -- the registry


def test_the_registry_knows_the_shards_as_queues_of_their_own() -> None:
    registry = registry_of(orders(shards=11, prefetch=7), QueueDeclaration(name="letters"))
    names = [queue.name for queue in registry.all()]
    assert names == ["letters", *(f"orders.{number}" for number in range(11))]
    assert [queue.name for queue in registry.families()] == ["letters", "orders"]
    assert registry.lookup("orders.10").prefetch == 7
    assert registry.lookup("orders").is_sharded
    assert registry.worker_class("orders.3") is Worker
    assert registry.declared("orders.3").name == "orders"
    for unknown in ("orders.11", "orders.00", "letters.0", "orders.x"):
        with pytest.raises(UnknownQueue):
            registry.lookup(unknown)


def test_an_environment_may_change_the_number_of_shards() -> None:
    registry = registry_of(orders())
    assert registry.lookup("orders.3").name == "orders.3"
    registry.apply_overrides({"orders": {"shards": 2}})
    assert [queue.name for queue in registry.all()] == ["orders.0", "orders.1"]
    with pytest.raises(UnknownQueue):
        registry.lookup("orders.3")
    registry.apply_overrides({"orders": {"shards": 1, "workers": 3}})
    assert [(queue.name, queue.workers) for queue in registry.all()] == [("orders", 3)]
    with pytest.raises(
        InvalidDeclaration, match="QUEUE_OVERRIDES makes it nonsense: workers=3 with shards=4"
    ):
        registry.apply_overrides({"orders": {"workers": 3}})


def test_a_module_that_is_read_anew_changes_the_shards_too() -> None:
    registry = registry_of(orders())
    assert registry.lookup("orders.3").prefetch == 1000
    registry.declare(orders(shards=2, prefetch=5), Worker)
    assert registry.lookup("orders.1").prefetch == 5
    with pytest.raises(UnknownQueue):
        registry.lookup("orders.3")


def test_a_family_s_name_stands_for_all_its_shards() -> None:
    registry = registry_of(orders(shards=2), QueueDeclaration(name="letters"))
    assert registry.expand(["letters", "orders", "orders.1", "nonesuch"]) == [
        "letters",
        "orders.0",
        "orders.1",
        "nonesuch",
    ]
    assert registry.every_name("orders") == ["orders", *(f"orders.{number}" for number in range(256))]
    for alone in ("letters", "orders.1", "nonesuch"):
        assert registry.every_name(alone) == [alone]


def test_one_shard_is_a_queue_as_any_other() -> None:
    queue = with_options(QueueDeclaration(name="orders"), {"shards": 1, "shard_key": "user_id"})
    registry = registry_of(queue)
    assert (queue.is_sharded, registry.all(), registry.expand(["orders"])) == (False, [queue], ["orders"])

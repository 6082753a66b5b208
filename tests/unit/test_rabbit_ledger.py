"""Acknowledgements that travel as one never take along what is not done."""

from __future__ import annotations

from zerver.lib.transport.rabbitmq.ledger import TagLedger


def ledger(count: int) -> TagLedger:
    made = TagLedger()
    for tag in range(1, count + 1):
        made.delivered([tag])
    return made


def test_contiguous_tags_are_one_acknowledgement() -> None:
    assert ledger(5).settle([1, 2, 3]) == [(3, True)]


def test_the_order_of_settling_does_not_matter() -> None:
    assert ledger(5).settle([3, 1, 2]) == [(3, True)]


def test_a_single_tag_is_not_multiple() -> None:
    assert ledger(5).settle([1]) == [(1, False)]


def test_what_is_ahead_of_an_unsettled_one_goes_singly() -> None:
    made = ledger(6)
    assert made.settle([3, 5]) == [(3, False), (5, False)]
    assert made.settle([1, 2]) == [(2, True)]
    assert made.settle([6, 4]) == [(6, True)]


def test_the_tag_that_is_named_is_never_one_that_was_settled_before() -> None:
    made = ledger(3)
    assert made.settle([2, 3]) == [(2, False), (3, False)]
    assert made.settle([1]) == [(1, False)]


def test_unknown_and_settled_tags_are_ignored() -> None:
    made = ledger(3)
    made.settle([1, 2])
    assert made.settle([1, 2, 9]) == []
    assert TagLedger().settle([1]) == []

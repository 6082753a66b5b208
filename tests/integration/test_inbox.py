"""The inbox: each event once, as far as events can be told apart."""

from __future__ import annotations

import pytest
from django.db import transaction

from tests.contract.harness import event
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.models import InboxEntry
from zerver.worker import inbox

QUEUE = QueueDeclaration(name="inbox")

pytestmark = pytest.mark.usefixtures("queue_database")


def admit(*events: Event) -> list[bool]:
    with transaction.atomic():
        return inbox.admit(QUEUE.name, events, "default")


def test_an_event_is_admitted_once_however_often_it_comes() -> None:
    first, second = event(QUEUE), event(QUEUE)
    assert admit(first, second, first) == [True, True, False]
    assert admit(second, first) == [False, False]
    assert InboxEntry.objects.count() == 2


def test_events_without_an_id_of_their_own_are_always_admitted() -> None:
    """Two that say the same have the same id: to take one for the other would lose it."""
    message_id = clock.foreign_message_id(QUEUE.name, b"{}")
    tick = event(QUEUE, message_id=message_id, kept_as=clock.new_message_id())
    again = event(QUEUE, message_id=message_id, kept_as=clock.new_message_id())
    numbered = event(QUEUE)
    assert admit(tick, numbered, again) == [True, True, True]
    assert admit(tick, numbered) == [True, False]
    assert InboxEntry.objects.count() == 1


def test_what_was_not_done_after_all_is_admitted_again() -> None:
    undone = event(QUEUE)
    with transaction.atomic():
        assert inbox.admit(QUEUE.name, [undone], "default") == [True]
        inbox.leave(QUEUE.name, [undone.message_id], "default")
    assert admit(undone) == [True]

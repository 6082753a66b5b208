"""Which id an event is kept under."""

import uuid

from zerver.lib import clock
from zerver.lib.event import Event, identified, next_attempt


def _event(*, has_own_id: bool) -> Event:
    message_id = "mine" if has_own_id else clock.foreign_message_id("letters", b"{}")
    return Event(
        queue="letters",
        message_id=message_id,
        body=b"{}",
        published_at_ms=1,
        attempt=2,
        kept_as="" if has_own_id else clock.new_message_id(),
    )


def test_the_next_attempt_keeps_the_id_that_the_event_came_with() -> None:
    event = _event(has_own_id=True)
    again = next_attempt(event)
    assert (again.message_id, again.attempt, again.body) == ("mine", 3, b"{}")
    assert identified(event) is event


def test_the_next_attempts_of_two_events_that_say_the_same_are_told_apart() -> None:
    first, second = next_attempt(_event(has_own_id=False)), next_attempt(_event(has_own_id=False))
    assert first.message_id != second.message_id
    assert uuid.UUID(first.message_id).version == 7
    assert first.has_own_id
    assert first.attempt == 3


def test_a_retry_of_a_retry_keeps_its_id() -> None:
    first = next_attempt(_event(has_own_id=False))
    assert next_attempt(first).message_id == first.message_id

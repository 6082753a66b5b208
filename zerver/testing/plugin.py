"""The pytest plugin: whoever installs zerver has these fixtures, with nothing to switch on.

Set ``QUEUE_URL = "immediate://"`` in the settings of your tests, and publishing calls the worker on the spot::

    def test_signup_greets_the_user(db, client):
        client.post("/signup/", {"email": "ada@example.com"})  # publishes to "greetings"
        assert Greeting.objects.get().email == "ada@example.com"

Nothing waits over from one test to the next. Works with pytest-django's ``db``, and without any database for queues
that are not ``transactional``.
"""

# pytest loads this module in every project of the environment, most of which know nothing of zerver, so it imports
# Django and the rest of zerver only inside the fixtures that need them.
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zerver.testing.captured import CapturedEvents
    from zerver.testing.deliveries import Deliver
    from zerver.testing.drain import Drain

_BROKER_VARIABLE = "QUEUE_TEST_BROKER_URL"
_BROKER_INI = "zerver_test_broker_url"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _BROKER_INI, f"amqp:// URL for tests marked real_broker; {_BROKER_VARIABLE} goes first", default=""
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"real_broker: needs a real broker, named by {_BROKER_VARIABLE} or {_BROKER_INI}; skipped without it",
    )


@pytest.fixture(autouse=True)
def _zerver(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing waits over to the next test; and a test marked ``real_broker`` gets its broker, or is skipped::

    @pytest.mark.real_broker
    @pytest.mark.django_db(transaction=True)  # so that commits are real, and events leave on them
    def test_events_reach_rabbitmq():
        queue_json_publish("greetings", {"user_id": 1})
    """
    with ExitStack() as stack:
        if request.node.get_closest_marker("real_broker") is not None:
            url = _broker_url(request.config)
            from zerver.testing.broker import publishing_to

            stack.enter_context(publishing_to(url))
        yield
        # Before the broker's connections are closed, which may fail. Loaded by those alone who have zerver installed.
        current = sys.modules.get("zerver.lib.transport.current")
        if current is not None:
            current.reset_immediate()


@pytest.fixture
def captured_events() -> Iterator[CapturedEvents]:
    """Collects what is published, whenever it is due, instead of consuming it::

    def test_signup_asks_for_a_greeting(db, client, captured_events):
        client.post("/signup/", {"email": "ada@example.com"})
        assert captured_events.of("greetings") == [{"email": "ada@example.com"}]
        assert captured_events.events[0].delay_seconds == 60
    """
    from zerver.testing.captured import capture

    with capture() as captured:
        yield captured


@pytest.fixture
def drain() -> Iterator[Drain]:
    """Runs what waits, delayed and retried events, in order of due time, and moves time along::

    def test_reminder_comes_after_a_day(db, drain):
        queue_json_publish("reminders", {"user_id": 1}, delay_seconds=86_400)
        assert drain(until=3600) == 0
        assert drain() == 1
    """
    from zerver.testing.drain import draining

    with draining() as drain_now:
        yield drain_now


@pytest.fixture
def deliver_twice() -> Deliver:
    """Delivers one event twice, as after a lost acknowledgement; returns how often the handler ran::

    def test_second_delivery_counts_nothing(db, deliver_twice):
        assert deliver_twice("user_activity", {"user_id": 1}) == 1  # transactional: the second is recognised
        assert Activity.objects.get(user_id=1).count == 1
    """
    from zerver.testing import deliveries

    return deliveries.deliver_twice


@pytest.fixture
def crash_between_effect_and_ack() -> Deliver:
    """The handler runs to its end, its process dies before the acknowledgement, and another process gets the event.

    What the first run did stays. Returns how often the handler ran::

        def test_crash_after_mailing_mails_once(db, mailoutbox, crash_between_effect_and_ack):
            assert crash_between_effect_and_ack("greetings", {"user_id": 1}) == 2
            assert len(mailoutbox) == 1
    """
    from zerver.testing import deliveries

    return deliveries.crash_between_effect_and_ack


def _broker_url(config: pytest.Config) -> str:
    """Skips or fails the test where there is none."""
    url = os.environ.get(_BROKER_VARIABLE) or str(config.getini(_BROKER_INI))
    if url.startswith(("amqp://", "amqps://")):
        return url
    if url:
        pytest.fail(
            f"{_BROKER_VARIABLE} (or {_BROKER_INI}) must begin with amqp:// or amqps://", pytrace=False
        )
    reason = f"needs a real broker: set {_BROKER_VARIABLE}, or {_BROKER_INI} in pytest's ini file"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)

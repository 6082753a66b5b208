"""The pytest plugin as its users see it: a project of their own, zerver beside it, and pytest run in a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.user_project import (
    install_entry_points,
    make_project,
    run_pytest_in,
    write,
    write_tests,
)

#: Runs pytest on the source of a test module; extra arguments are pytest's.
RunPytest = Callable[..., str]


@pytest.fixture
def run_pytest(tmp_path: Path) -> RunPytest:
    make_project(tmp_path)

    def run(source: str, *arguments: str, env: dict[str, str] | None = None, fails: bool = False) -> str:
        write_tests(tmp_path, source)
        return run_pytest_in(tmp_path, *arguments, env=env or {}, fails=fails)

    return run


def test_publishing_consumes_at_once_without_any_database_and_nothing_waits_over(
    run_pytest: RunPytest,
) -> None:
    output = run_pytest("""
        def test_first():
            queue_json_publish("greetings", {"name": "Ada"})
            queue_json_publish("greetings", {"name": "Grace"}, delay_seconds=60)
            assert diary == ["setup", "greeted Ada", "stop"]

        def test_second(drain):
            assert drain() == 0
            assert diary == []
        """)
    assert "2 passed" in output


def test_captured_events_are_collected_and_not_consumed(run_pytest: RunPytest) -> None:
    output = run_pytest("""
        def test_capture(captured_events):
            queue_json_publish("greetings", {"name": "Ada"})
            message_id = queue_json_publish("chimes", {"hour": 1}, delay_seconds=90)
            assert diary == []
            assert len(captured_events) == 2
            assert captured_events.of("greetings") == [{"name": "Ada"}]
            assert captured_events.of("orders") == []
            first, second = captured_events
            assert (first.queue, first.delay_seconds) == ("greetings", 0)
            assert (second.message_id, second.delay_seconds) == (message_id, 90)
            assert 80 < (second.due_at - timezone.now()).total_seconds() <= 90
            assert second.headers["x-version"]

        def test_after_it_publishing_consumes_again():
            queue_json_publish("greetings", {"name": "Ada"})
            assert "greeted Ada" in diary
        """)
    assert "2 passed" in output


def test_a_failed_assertion_shows_what_was_captured(run_pytest: RunPytest) -> None:
    output = run_pytest(
        """
        def test_nothing_is_sent(captured_events):
            queue_json_publish("greetings", {"name": "Ada"}, delay_seconds=60)
            assert not captured_events

        def test_something_else_is_sent(captured_events):
            queue_json_publish("greetings", {"name": "Ada"})
            assert captured_events.of("greetings") == [{"name": "Grace"}]
        """,
        fails=True,
    )
    assert "assert not <captured: greetings {'name': 'Ada'} in 60 s>" in output
    assert "assert [{'name': 'Ada'}] == [{'name': 'Grace'}]" in output


def test_drain_runs_what_waits_in_order_of_due_time_and_moves_time_along(run_pytest: RunPytest) -> None:
    output = run_pytest("""
        def test_order(drain):
            queue_json_publish("greetings", {"name": "the late"}, delay_seconds=7200)
            queue_json_publish("greetings", {"name": "the early"}, delay_seconds=3600)
            assert drain(until=60) == 0
            assert drain() == 2
            assert [line for line in diary if line.startswith("greeted")] == ["greeted the early", "greeted the late"]

        def test_time(drain):
            before = clock.now_ms()
            for _ in range(2):
                queue_json_publish("chimes", {"hour": 1})
            assert drain(until=3601) == 2
            assert clock.now_ms() - before >= 3_601_000
            assert drain(until=3600) == 2
            assert diary == [1, 1, 2, 2, 3, 3]
            assert drain(until=timezone.now() + timedelta(seconds=11_000)) == 2

        def test_time_is_put_back():
            assert abs(clock.now_ms() / 1000 - time.time()) < 10

        def test_naive_time_is_refused(drain):
            with pytest.raises(ValueError, match="aware"):
                drain(until=timezone.now().replace(tzinfo=None))

        def test_retries_wait_and_leave_nothing_of_the_first_attempt(db, drain):
            from shop.models import Order
            queue_json_publish("careful_orders", {"number": 1, "patient": True})
            assert Order.objects.count() == 0
            assert drain() == 2  # the order, and the greeting that it publishes
            assert Order.objects.count() == 1
        """)
    assert "5 passed" in output


def test_drain_says_so_when_it_would_never_end(run_pytest: RunPytest) -> None:
    output = run_pytest(
        """
        def test_for_ever(drain):
            queue_json_publish("chimes", {"hour": 1})
            drain()

        def test_at_once_for_ever():
            queue_json_publish("echoes", {"word": "hello"})
        """,
        fails=True,
    )
    assert "RuntimeError: drain: 10,000 waiting events ran and queue 'chimes' still has one" in output
    assert "RuntimeError: 10,000 handlers published one another, the last to queue 'echoes'" in output


def test_deliver_twice_runs_a_transactional_handler_once(run_pytest: RunPytest) -> None:
    output = run_pytest("""
        from shop.models import Order

        def test_transactional(db, deliver_twice):
            assert deliver_twice("careful_orders", {"number": 1}) == 1
            assert Order.objects.count() == 1
            assert diary.count("greeted the buyer") == 1

        def test_real_commits(transactional_db, deliver_twice):
            assert deliver_twice("careful_orders", {"number": 1}) == 1
            assert Order.objects.count() == 1

        def test_otherwise(db, deliver_twice):
            assert deliver_twice("careless_orders", {"number": 1}) == 2
            assert Order.objects.count() == 2

        def test_without_a_database_and_in_one_process(deliver_twice):
            assert deliver_twice("greetings", {"name": "Ada"}) == 2
            assert diary == ["setup", "greeted Ada", "greeted Ada, Ada", "stop"]
        """)
    assert "4 passed" in output


def test_crash_between_effect_and_ack_keeps_the_effect_and_loses_the_process(run_pytest: RunPytest) -> None:
    output = run_pytest("""
        from shop.models import Order

        def test_transactional(db, crash_between_effect_and_ack):
            assert crash_between_effect_and_ack("careful_orders", {"number": 1}) == 1
            assert Order.objects.count() == 1

        def test_otherwise(db, crash_between_effect_and_ack):
            assert crash_between_effect_and_ack("careless_orders", {"number": 1}) == 2
            assert Order.objects.count() == 2

        def test_nothing_is_stopped_or_remembered(crash_between_effect_and_ack):
            assert crash_between_effect_and_ack("greetings", {"name": "Ada"}) == 2
            assert diary == ["setup", "greeted Ada", "setup", "greeted Ada", "stop"]
        """)
    assert "3 passed" in output


def test_what_goes_wrong_in_a_delivery_rises_to_the_test(run_pytest: RunPytest) -> None:
    output = run_pytest(
        """
        from zerver.lib.errors import NotJson, UnknownQueue

        def test_handler(deliver_twice):
            with pytest.raises(KeyError, match="name"):
                deliver_twice("greetings", {})

        def test_event(deliver_twice):
            with pytest.raises(NotJson, match=r"\\$\\.name"):
                deliver_twice("greetings", {"name": object()})

        def test_queue(crash_between_effect_and_ack):
            with pytest.raises(UnknownQueue):
                crash_between_effect_and_ack("nowhere", {})

        def test_no_database_for_a_transactional_queue(deliver_twice):
            deliver_twice("careful_orders", {"number": 1})
        """,
        fails=True,
    )
    assert "1 failed, 3 passed" in output
    assert 'Database access not allowed, use the "django_db" mark' in output


def test_fixtures_say_what_is_missing(run_pytest: RunPytest) -> None:
    output = run_pytest(
        """
        def test_another_transport(settings, request):
            settings.QUEUE_URL = "db://"
            request.getfixturevalue("captured_events")

        def test_another_transport_again(settings, request):
            settings.QUEUE_URL = "db://"
            request.getfixturevalue("drain")

        def test_not_installed(settings, request):
            settings.INSTALLED_APPS = ["shop"]
            request.getfixturevalue("drain")
        """,
        fails=True,
    )
    assert (
        "captured_events needs QUEUE_URL = 'immediate://' in the settings of your tests; it is db://"
        in output
    )
    assert "drain needs QUEUE_URL = 'immediate://'" in output
    assert "drain needs 'zerver' in INSTALLED_APPS" in output


def test_a_project_without_django_pays_nothing(tmp_path: Path) -> None:
    install_entry_points(tmp_path / "site")
    write(
        tmp_path / "test_plain.py",
        """
        import sys

        def test_plain():
            assert "zerver.testing.plugin" in sys.modules
            assert not [name for name in sys.modules if name == "django" or name.startswith("zerver.lib")]

        def test_asks_for_drain(request):
            request.getfixturevalue("drain")
        """,
    )
    output = run_pytest_in(tmp_path, "-p", "no:django", env={}, fails=True)
    assert "1 failed, 1 passed" in output
    assert "drain needs Django set up: install pytest-django and set DJANGO_SETTINGS_MODULE" in output


_BROKER_TEST = """
    from tests.wait import wait_for
    from zerver.lib.conf import get_settings
    from zerver.lib.registry import queues
    from zerver.lib.transport import current

    @pytest.mark.real_broker
    def test_over_the_broker(db):
        pass

    @pytest.mark.real_broker
    @pytest.mark.django_db(transaction=True)
    def test_event_waits_on_the_broker():
        queue_json_publish("greetings", {"name": "Ada"})
        assert diary == []
        wait_for(lambda: current.fast_lane().depth(queues.lookup("greetings")).ready == 1)

    def test_on_the_spot():
        assert get_settings().scheme == "immediate"
        queue_json_publish("greetings", {"name": "Ada"})
        assert "greeted Ada" in diary
"""


def test_real_broker_tests_are_skipped_with_a_reason(run_pytest: RunPytest) -> None:
    output = run_pytest(_BROKER_TEST, "-rs", "--strict-markers")
    assert "1 passed, 2 skipped" in output
    assert (
        "needs a real broker: set QUEUE_TEST_BROKER_URL, or zerver_test_broker_url in pytest's ini file"
        in output
    )


def test_real_broker_tests_fail_in_ci_without_one(run_pytest: RunPytest) -> None:
    output = run_pytest(_BROKER_TEST, env={"CI": "true"}, fails=True)
    assert "1 passed, 2 errors" in output
    assert "needs a real broker: set QUEUE_TEST_BROKER_URL" in output


def test_real_broker_tests_refuse_another_kind_of_url_without_showing_it(run_pytest: RunPytest) -> None:
    output = run_pytest(_BROKER_TEST, "-o", "zerver_test_broker_url=http://user:secret@host", fails=True)
    assert "QUEUE_TEST_BROKER_URL (or zerver_test_broker_url) must begin with amqp:// or amqps://" in output
    assert "secret" not in output


def test_real_broker_tests_run_on_the_broker_that_the_environment_names(
    run_pytest: RunPytest, rabbit_vhost: str
) -> None:
    env = {"QUEUE_TEST_BROKER_URL": rabbit_vhost}
    output = run_pytest(_BROKER_TEST, "-o", "zerver_test_broker_url=http://this.one.yields/", env=env)
    assert "3 passed" in output

"""The breaker as a state machine; time is an argument."""

from zerver.worker.breaker import Breaker


def opened(now: float = 100.0) -> Breaker:
    breaker = Breaker()
    for number in range(Breaker.THRESHOLD):
        breaker.failed(f"failure {number}", now)
    return breaker


def test_it_opens_at_the_threshold_and_says_so_once() -> None:
    breaker = Breaker()
    answers = [breaker.failed("refused", 100.0) for _ in range(Breaker.THRESHOLD + 1)]
    assert answers == [False] * (Breaker.THRESHOLD - 1) + [True, False]
    assert breaker.is_open


def test_it_stays_closed_while_successes_come_in_between() -> None:
    breaker = Breaker()
    for _ in range(20):
        for _ in range(Breaker.THRESHOLD - 1):
            assert not breaker.failed("refused", 100.0)
        assert not breaker.succeeded()
    assert not breaker.is_open
    assert breaker.wait_seconds(100.0) == 0


def test_open_it_pauses_and_then_lets_one_try() -> None:
    breaker = opened(now=100.0)
    assert breaker.wait_seconds(100.0) == Breaker.FIRST_PAUSE_SECONDS
    assert breaker.wait_seconds(100.25) == Breaker.FIRST_PAUSE_SECONDS - 0.25
    assert breaker.wait_seconds(101.0) == 0
    assert breaker.wait_seconds(500.0) == 0


def test_a_failed_trial_doubles_the_pause_up_to_a_minute() -> None:
    breaker, now, pauses = opened(now=0.0), 0.0, []
    for _ in range(9):
        pause = breaker.wait_seconds(now)
        pauses.append(pause)
        now += pause
        assert not breaker.failed("still refused", now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_rest_of_a_failing_batch_is_no_trial() -> None:
    breaker = Breaker()
    for number in range(100):
        breaker.failed(f"failure {number}", 100.0 + number / 1000)
    assert breaker.wait_seconds(100.1) < Breaker.FIRST_PAUSE_SECONDS


def test_a_success_closes_it_and_forgets_the_past() -> None:
    breaker = opened(now=0.0)
    breaker.failed("trial", 1.0)
    assert breaker.succeeded()
    assert not breaker.is_open
    assert breaker.reason == ""
    assert not breaker.succeeded()
    assert breaker.wait_seconds(1.0) == 0
    reopened = [breaker.failed("again", 50.0) for _ in range(Breaker.THRESHOLD)]
    assert reopened[-1]
    assert breaker.wait_seconds(50.0) == Breaker.FIRST_PAUSE_SECONDS


def test_it_says_why_it_is_open() -> None:
    assert opened().reason == "10 attempts failed in a row, the last with: failure 9"
    assert Breaker().reason == ""

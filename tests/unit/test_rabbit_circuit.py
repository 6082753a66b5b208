"""Queues that are not confirmed: who waits for them, who goes to see, and when it is over."""

from __future__ import annotations

from zerver.lib.transport.rabbitmq.circuit import LATELY_SECONDS, PROBE_BESIDE_SECONDS, PROBE_SECONDS, Circuit


def is_stuck(circuit: Circuit, queue: str) -> bool:
    return queue in circuit._until


def stuck(*, is_in_flight: bool = False) -> Circuit:
    """At 100.0, over an event that was handed over at 95.0."""
    circuit = Circuit()
    circuit.unanswered("parcels", 100.0, 95.0, is_in_flight=is_in_flight)
    return circuit


def test_nobody_waits_for_a_stuck_queue_and_others_are_none_the_wiser() -> None:
    circuit = stuck()
    assert is_stuck(circuit, "parcels")
    assert not circuit.claim_pass("parcels", 100.0 + PROBE_SECONDS - 0.1, 5)
    assert not is_stuck(circuit, "letters")
    assert circuit.claim_pass("letters", 100.0, 5)


def test_one_goes_to_see_and_the_others_do_not_wait_along_with_it() -> None:
    circuit = stuck()
    now = 100.0 + PROBE_SECONDS
    assert circuit.claim_pass("parcels", now, 5)
    assert not circuit.claim_pass("parcels", now + 4.9, 5)
    assert is_stuck(circuit, "parcels")


def test_what_is_in_flight_goes_to_see_in_place_of_another() -> None:
    circuit = stuck(is_in_flight=True)
    assert not circuit.claim_pass("parcels", 100.0 + PROBE_BESIDE_SECONDS - 0.1, 5)
    assert circuit.claim_pass("parcels", 100.0 + PROBE_BESIDE_SECONDS, 5)


def test_a_confirm_ends_it_and_so_does_a_fresh_connection() -> None:
    circuit = stuck()
    circuit.confirmed("parcels", 101.0)
    assert circuit.claim_pass("parcels", 101.0, 5)
    circuit = stuck()
    circuit.clear()
    assert circuit.claim_pass("parcels", 101.0, 5)


def test_what_comes_back_unstored_tells_of_no_recovery_but_somebody_else_goes_to_see_soon() -> None:
    circuit = stuck(is_in_flight=True)
    circuit.nacked("parcels", 160.0)
    assert is_stuck(circuit, "parcels")
    assert not circuit.claim_pass("parcels", 160.0, 5)
    assert circuit.claim_pass("parcels", 160.0 + PROBE_SECONDS, 5)
    circuit.nacked("letters", 160.0)
    assert not is_stuck(circuit, "letters")


def test_a_queue_that_is_confirmed_all_along_is_slow_and_not_stuck() -> None:
    circuit = Circuit()
    circuit.confirmed("parcels", 99.9)
    circuit.unanswered("parcels", 100.0, 95.0, is_in_flight=True)
    assert not is_stuck(circuit, "parcels")


def test_a_confirm_of_before_the_event_or_of_long_ago_says_nothing() -> None:
    for confirmed_at, asked_at in ((99.9, 99.95), (100.0 - LATELY_SECONDS, 95.0)):
        circuit = Circuit()
        circuit.confirmed("parcels", confirmed_at)
        circuit.unanswered("parcels", 100.0, asked_at, is_in_flight=False)
        assert is_stuck(circuit, "parcels")

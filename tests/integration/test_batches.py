"""Batches: outcomes per event, and one bad event among good ones."""

from tests.integration.conftest import Spine, on_sqlite
from tests.wait import wait_for


def test_a_batch_with_one_bad_event_runs_the_others_and_retries_that_one(spine: Spine) -> None:
    spine.publish_many("ledger_batch", range(9))
    spine.publish("ledger_batch", ["raise", "bad apple"], n=9)
    spine.work("--queue=ledger_batch")
    [failed] = spine.failed()
    assert failed.error == "ValueError: bad apple"
    assert failed.attempt == 3
    spine.wait_for_numbers(range(9))
    spine.wait_until_settled("ledger_batch")


def test_each_event_of_a_batch_has_the_outcome_that_the_batch_gave_it(spine: Spine) -> None:
    spine.publish("ledger_batch", n=0)
    spine.publish("ledger_batch", n=1, outcome="dead")
    spine.publish("ledger_batch", n=2, outcome="discard")
    spine.publish("ledger_batch", n=3, outcome="retry")
    spine.work("--queue=ledger_batch")
    failed = spine.failed(2)
    assert {(row.error, row.attempt) for row in failed} == {
        ("given up by the batch", 1),
        ("asked by the batch", 3),
    }
    spine.wait_for_numbers([0])
    spine.wait_until_settled("ledger_batch")


def test_a_transactional_batch_is_rolled_back_and_bisected(spine: Spine) -> None:
    spine.publish_many("ledger_batch_transactional", range(7))
    spine.publish("ledger_batch_transactional", ["raise", "bad apple"], n=7)
    spine.work("--queue=ledger_batch_transactional")
    spine.failed()
    wait_for(lambda: spine.effects() == list(range(7)), 20, lambda: f"effects: {spine.effects()}")
    spine.wait_until_settled("ledger_batch_transactional")


@on_sqlite
def test_a_body_that_is_not_json_fails_alone_and_at_once(spine: Spine) -> None:
    from zerver.lib import clock
    from zerver.lib.event import Event
    from zerver.lib.transport import current

    spine.publish_many("ledger_batch", range(3))
    garbage = Event(
        queue="ledger_batch", message_id="garbage", body=b"\xff\x00{", published_at_ms=clock.now_ms()
    )
    current.table().store([garbage])
    spine.work("--queue=ledger_batch")
    [failed] = spine.failed()
    assert (failed.message_id, failed.attempt, bytes(failed.body)) == ("garbage", 1, b"\xff\x00{")
    spine.wait_for_numbers(range(3))


def test_an_older_versions_event_is_upgraded_before_its_type_is_checked(spine: Spine) -> None:
    """A rolling deploy: the publisher knows another version of the type than this worker does."""
    from zerver.lib import clock
    from zerver.lib.event import Event
    from zerver.lib.queue import publish_now

    def old(number: str, body: bytes) -> Event:
        return Event(queue="ledger_typed", message_id=number, body=body, published_at_ms=clock.now_ms())

    assert publish_now([old("upgraded", b'{"number": 5, "extra": true}'), old("hopeless", b'{"m": 1}')]) == {}
    spine.work("--queue=ledger_typed")
    [failed] = spine.failed()
    assert failed.message_id == "hopeless"
    assert failed.attempt == 3  # another process might have known it
    assert "ledger_typed" in failed.error
    assert "`n`" in failed.error
    assert bytes(failed.body) == b'{"m": 1}'
    spine.wait_for_numbers([5])

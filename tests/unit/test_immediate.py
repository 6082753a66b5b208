"""The tests' transport: what runs when, and what waits."""

import threading
from collections.abc import Callable

import pytest

from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport import immediate
from zerver.lib.transport.immediate import ImmediateTransport


class Scene:
    """A transport whose consumer notes the events and does what the test told it to do for some of them."""

    def __init__(self) -> None:
        self.consumed: list[str] = []
        #: What to do while consuming, by message id; may return seconds until a retry.
        self.acts: dict[str, Callable[[], float | None]] = {}
        self.transport = ImmediateTransport(self._consume)

    def publish(self, *names: str, delay_seconds: float = 0) -> None:
        events = [event(name) for name in names]
        self.transport.accept(events, None, delay_seconds=delay_seconds, due_at_ms=None)

    def _consume(self, event: Event) -> float | None:
        self.consumed.append(f"{event.message_id}#{event.attempt}")
        act = self.acts.get(event.message_id)
        return None if act is None else act()


def event(name: str, queue: str = "letters") -> Event:
    return Event(queue=queue, message_id=name, body=b'{"a":1}', published_at_ms=clock.now_ms())


def raising(error: Exception) -> Callable[[], float | None]:
    def act() -> float | None:
        raise error

    return act


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_publishing_consumes_at_once_in_order(scene: Scene) -> None:
    scene.publish("a", "b")
    scene.publish("c")
    assert scene.consumed == ["a#1", "b#1", "c#1"]


def test_a_publish_from_inside_a_handler_queues_behind_it(scene: Scene) -> None:
    def publish_and_look() -> None:
        scene.publish("child", "second child")
        scene.consumed.append("still in a")

    scene.acts["a"] = publish_and_look
    scene.acts["child"] = lambda: scene.publish("grandchild")
    scene.publish("a", "b")
    assert scene.consumed == ["a#1", "still in a", "b#1", "child#1", "second child#1", "grandchild#1"]


def test_an_exception_rises_after_everything_behind_it_has_run(scene: Scene) -> None:
    scene.acts = {"a": raising(KeyError("first")), "c": raising(ValueError("second"))}
    with pytest.raises(KeyError, match="first") as risen:
        scene.publish("a", "b", "c")
    assert scene.consumed == ["a#1", "b#1", "c#1"]
    assert risen.value.__notes__ == ["and behind it: ValueError: second"]
    scene.publish("d")
    assert scene.consumed[-1] == "d#1"


def test_an_exception_in_a_nested_event_rises_to_the_outermost_publish(scene: Scene) -> None:
    scene.acts = {"a": lambda: scene.publish("child"), "child": raising(KeyError("nested"))}
    with pytest.raises(KeyError, match="nested"):
        scene.publish("a")


def test_what_is_due_later_waits_in_order_of_due_time(scene: Scene) -> None:
    scene.publish("late", delay_seconds=60)
    scene.publish("early", delay_seconds=5)
    scene.publish("early too", delay_seconds=5.5)
    assert scene.consumed == []
    assert [row.event.message_id for row in scene.transport.waiting()] == ["early", "early too", "late"]
    assert [scene.transport.run_next() for _ in range(4)] == [1, 1, 1, 0]
    assert scene.consumed == ["early#1", "early too#1", "late#1"]


def test_a_due_time_in_the_past_is_now(scene: Scene) -> None:
    scene.transport.accept([event("a")], None, delay_seconds=0, due_at_ms=clock.now_ms() - 1)
    assert scene.consumed == ["a#1"]


def test_a_retry_waits_as_the_next_attempt_of_the_same_event(scene: Scene) -> None:
    scene.acts["a"] = lambda: 30
    scene.publish("a")
    [row] = scene.transport.waiting()
    assert (row.event.message_id, row.event.attempt, row.event.body) == ("a", 2, b'{"a":1}')
    assert 29_000 < row.due_at_ms - clock.now_ms() <= 30_000
    del scene.acts["a"]
    assert scene.transport.run_next() == 1
    assert scene.consumed == ["a#1", "a#2"]


def test_a_retry_at_once_waits_too_rather_than_to_spin(scene: Scene) -> None:
    scene.acts["a"] = lambda: 0
    scene.publish("a")
    assert scene.consumed == ["a#1"]
    assert len(scene.transport.waiting()) == 1


def test_running_what_waits_counts_what_it_publishes(scene: Scene) -> None:
    scene.acts["a"] = lambda: scene.publish("b", "c")
    scene.publish("a", delay_seconds=1)
    assert scene.transport.run_next() == 3


def test_a_processor_is_called_instead_with_the_event_as_json_made_it(scene: Scene) -> None:
    seen: list[object] = []
    scene.transport.accept([event("a")], seen.append, delay_seconds=0, due_at_ms=None)
    scene.transport.accept([event("b")], seen.append, delay_seconds=9, due_at_ms=None)
    assert seen == [{"a": 1}]
    scene.transport.run_next()
    assert seen == [{"a": 1}, {"a": 1}]
    assert scene.consumed == []


def test_capturing_collects_everything_whenever_it_is_due(scene: Scene) -> None:
    captured: list[immediate.Waiting] = []
    scene.transport.captured = captured
    scene.publish("a")
    scene.publish("b", delay_seconds=5)
    assert [(row.event.message_id, row.due_at_ms - row.event.published_at_ms) for row in captured] == [
        ("a", 0),
        ("b", 5000),
    ]
    assert scene.consumed == []
    assert scene.transport.waiting() == []


def test_a_chain_of_handlers_that_never_ends_is_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(immediate, "MAX_CHAIN", 50)
    scene.acts["a"] = lambda: scene.publish("a")
    with pytest.raises(RuntimeError, match="50 handlers published one another, the last to queue 'letters'"):
        scene.publish("a")
    assert len(scene.consumed) == 51


def test_many_events_side_by_side_are_no_chain(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(immediate, "MAX_CHAIN", 5)
    scene.publish(*[f"{number}" for number in range(100)])
    assert len(scene.consumed) == 100


def test_nothing_is_left_between_tests(scene: Scene) -> None:
    scene.publish("a", delay_seconds=5)
    scene.transport.captured = []
    scene.transport.forget_all()
    assert scene.transport.waiting() == []
    scene.publish("b")
    assert scene.consumed == ["b#1"]


def test_what_a_handler_left_behind_when_the_test_was_ended_in_it_is_forgotten(scene: Scene) -> None:
    def interrupted() -> float | None:
        raise KeyboardInterrupt

    scene.acts["a"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        scene.publish("a", "b")
    scene.transport.forget_all()
    scene.publish("c")
    assert scene.consumed == ["a#1", "c#1"]


def test_each_thread_has_its_own_line(scene: Scene) -> None:
    """What one thread's handler publishes must not run in another thread, and be blamed on its test."""
    in_handler, go_on = threading.Event(), threading.Event()
    runners: dict[str, int] = {}

    def slow() -> None:
        scene.publish("of the thread")
        in_handler.set()
        go_on.wait(10)

    scene.acts = {
        "slow": slow,
        "of the thread": lambda: runners.setdefault("thread", threading.get_ident()) and None,
        "of the test": lambda: runners.setdefault("test", threading.get_ident()) and None,
    }
    thread = threading.Thread(target=lambda: scene.publish("slow"))
    thread.start()
    assert in_handler.wait(10)
    scene.publish("of the test")
    assert runners == {"test": threading.get_ident()}
    go_on.set()
    thread.join(10)
    assert runners["thread"] == thread.ident


def test_a_handler_run_from_outside_has_its_events_behind_it(scene: Scene) -> None:
    def handler() -> str:
        scene.publish("a")
        scene.consumed.append("handler ends")
        return "answer"

    assert scene.transport.run_as_handler(handler) == "answer"
    assert scene.consumed == ["handler ends", "a#1"]


def test_a_transport_that_nobody_gave_a_consumer_says_what_is_missing() -> None:
    with pytest.raises(AssertionError, match="is 'zerver' in INSTALLED_APPS"):
        ImmediateTransport(None).accept([event("a")], None, delay_seconds=0, due_at_ms=None)


def test_closing_forgets_what_waits_and_purging_what_is_in_nobody_s_hand(scene: Scene) -> None:
    queue = QueueDeclaration(name="letters")
    scene.publish("a", "b", delay_seconds=5)
    scene.transport.accept([event("c", "parcels")], None, delay_seconds=5, due_at_ms=None)
    assert scene.transport.depth(queue).later == 2
    assert scene.transport.purge(queue) == 2
    assert [row.event.queue for row in scene.transport.waiting()] == ["parcels"]
    scene.transport.close()
    assert scene.transport.waiting() == []

"""Whose question broke the connection: all ask at once, until that has happened; then one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zerver.lib.transport.rabbitmq.turns import Asker, Turns


class Lane(Asker):
    def on_fault(self) -> None:
        raise NotImplementedError("whoever has the connection calls it")


class Scene:
    """Three that ask, and a clock that goes when it is told to."""

    def __init__(self) -> None:
        self.lanes = {name: Lane() for name in "abc"}
        self.asked: list[str] = []
        self._timers: list[Callable[[], None]] = []
        self.turns = Turns(lambda seconds, callback: self._timers.append(callback))

    def ask(self, names: str) -> None:
        for name in names:
            self.turns.ask(self.lanes[name], lambda name=name: self.asked.append(name))  # type: ignore[misc]

    def answer(self, name: str) -> None:
        self.turns.answered(self.lanes[name])

    def break_it(self) -> str | None:
        """Who was at fault."""
        at_fault = self.turns.end(is_broken=True)
        return next((name for name, lane in self.lanes.items() if lane is at_fault), None)

    def let_time_pass(self) -> None:
        timers, self._timers = self._timers, []
        for timer in timers:
            timer()

    def let_time_pass_before_the_last_turn(self) -> None:
        """Whatever was timed before it is due, and it is not."""
        *earlier, last = self._timers
        self._timers = [last]
        for timer in earlier:
            timer()


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def one_by_one(scene: Scene) -> Scene:
    scene.ask("ab")
    assert scene.break_it() is None
    scene.asked.clear()
    return scene


def test_at_first_all_ask_at_once(scene: Scene) -> None:
    scene.ask("abc")
    assert scene.asked == ["a", "b", "c"]


def test_the_only_one_that_asks_is_at_fault(scene: Scene) -> None:
    scene.ask("abc")
    scene.answer("a")
    scene.answer("c")
    assert scene.break_it() == "b"


def test_after_several_asked_when_it_broke_they_ask_in_turn_and_who_breaks_it_is_found(
    one_by_one: Scene,
) -> None:
    one_by_one.ask("abc")
    assert one_by_one.asked == ["a"]
    one_by_one.answer("a")
    assert one_by_one.asked == ["a", "b"]
    assert one_by_one.break_it() == "b"


def test_who_waited_when_it_broke_asks_anew(one_by_one: Scene) -> None:
    one_by_one.ask("abc")
    one_by_one.break_it()
    one_by_one.ask("ca")
    one_by_one.answer("c")
    assert one_by_one.asked == ["a", "c", "a"]


def test_a_question_without_an_answer_holds_up_nobody_for_long_and_is_the_first_to_blame(
    one_by_one: Scene,
) -> None:
    one_by_one.ask("abc")
    one_by_one.let_time_pass()
    assert one_by_one.asked == ["a", "b"]
    one_by_one.let_time_pass()
    assert one_by_one.asked == ["a", "b", "c"]
    assert one_by_one.break_it() == "a"


def test_others_go_on_in_turn_beside_a_question_without_an_answer(one_by_one: Scene) -> None:
    one_by_one.ask("abc")
    one_by_one.let_time_pass()
    one_by_one.answer("b")
    assert one_by_one.asked == ["a", "b", "c"]


def test_who_asks_twice_while_it_waits_has_one_turn(one_by_one: Scene) -> None:
    one_by_one.ask("abbc")
    one_by_one.let_time_pass()
    assert one_by_one.asked == ["a", "b"]
    one_by_one.let_time_pass()
    assert one_by_one.asked == ["a", "b", "c"]


def test_the_time_of_an_earlier_turn_ends_none_of_later_ones(one_by_one: Scene) -> None:
    one_by_one.ask("ab")
    one_by_one.answer("a")
    one_by_one.ask("c")
    one_by_one.let_time_pass()  # of both turns: the first is over, the second overdue
    assert one_by_one.asked == ["a", "b", "c"]
    one_by_one.answer("b")
    one_by_one.answer("c")
    one_by_one.ask("ab")
    one_by_one.break_it()
    one_by_one.asked.clear()
    one_by_one.ask("ab")
    one_by_one.let_time_pass_before_the_last_turn()
    assert one_by_one.asked == ["a"]


def test_questions_that_are_answered_at_once_are_no_recursion(one_by_one: Scene) -> None:
    lanes = [Lane() for _ in range(5_000)]
    one_by_one.ask("a")
    for lane in lanes:
        one_by_one.turns.ask(lane, lambda lane=lane: one_by_one.turns.answered(lane))  # type: ignore[misc]
    one_by_one.answer("a")
    one_by_one.ask("b")
    assert one_by_one.asked == ["a", "b"]


def test_what_could_not_wait_is_to_blame_as_well(scene: Scene) -> None:
    scene.turns.began(scene.lanes["b"])
    assert scene.break_it() == "b"


def test_who_does_not_ask_any_more_loses_its_turn(one_by_one: Scene) -> None:
    one_by_one.ask("abc")
    one_by_one.answer("b")
    one_by_one.answer("a")
    assert one_by_one.asked == ["a", "c"]


def test_the_second_half_of_a_question_needs_no_turn_of_its_own(one_by_one: Scene) -> None:
    one_by_one.ask("aba")
    assert one_by_one.asked == ["a", "a"]


def test_an_end_that_no_question_caused_changes_nothing(scene: Scene) -> None:
    scene.ask("ab")
    assert scene.turns.end(is_broken=False) is None
    assert scene.break_it() is None
    scene.ask("ab")
    assert scene.asked == ["a", "b", "a", "b"]

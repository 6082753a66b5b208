"""What may become of a task: the table, and its picture in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from zerver.tasker.states import OPEN, TRANSITIONS, TaskState, Verb, diagram, sources, target

ROOT = Path(__file__).resolve().parents[2]


def test_every_verb_happens_somewhere_and_leads_to_one_place_but_for_the_cancelling_of_one_that_runs() -> (
    None
):
    for verb in Verb:
        assert sources(verb), verb
    assert {verb for verb in Verb if len({TRANSITIONS[state, verb] for state in sources(verb)}) > 1} == {
        Verb.CANCEL
    }
    assert target(Verb.RETRY_LATER) is TaskState.SCHEDULED
    with pytest.raises(ValueError, match="cancel leads to cancelled, running"):
        target(Verb.CANCEL)


def test_one_that_succeeded_stays_so_and_others_that_are_finished_are_only_revived() -> None:
    after = {state: {verb for at, verb in TRANSITIONS if at is state} for state in TaskState}
    assert after[TaskState.SUCCEEDED] == set()
    assert after[TaskState.FAILED] == after[TaskState.CANCELLED] == {Verb.REVIVE}


def test_every_open_task_can_come_to_every_end() -> None:
    for begin in OPEN:
        reached, fresh = {begin}, {begin}
        while fresh:
            fresh = {after for (state, _), after in TRANSITIONS.items() if state in fresh} - reached
            reached |= fresh
        assert {state for state in TaskState if state.is_finished} <= reached


def test_the_documentation_draws_the_table_as_it_is() -> None:
    assert diagram() in (ROOT / "docs" / "task-states.md").read_text()

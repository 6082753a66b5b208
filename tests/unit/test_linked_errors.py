"""What hangs together with an exception."""

from __future__ import annotations

from zerver.lib.linked_errors import linked


def test_causes_contexts_and_members_of_groups_are_all_there_and_each_once() -> None:
    cause, context, member = KeyError(), OSError(), ValueError()
    group = ExceptionGroup("several", [member, cause])
    group.__cause__, member.__context__ = cause, context
    found = list(linked(group))
    assert found[0] is group
    assert {id(each) for each in found} == {id(each) for each in (group, cause, context, member)}
    assert len(found) == 4


def test_a_circle_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__context__, second.__context__ = second, first
    assert list(linked(first)) == [first, second]

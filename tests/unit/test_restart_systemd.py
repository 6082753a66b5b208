"""What ``systemctl show`` says of a unit, as systemd 252 said it, and what it means for a rolling restart."""

from __future__ import annotations

import pytest

from zerver.management.restart.supervisor import State
from zerver.management.restart.systemd import seconds_of, state_of


@pytest.mark.parametrize(
    ("active", "sub", "job", "state"),
    [
        ("active", "running", "", State.UP),
        ("activating", "start", "117", State.COMING),
        ("activating", "auto-restart", "", State.COMING),
        ("deactivating", "stop-sigterm", "118", State.COMING),
        ("inactive", "dead", "", State.STOPPED),
        # Between the stop and the start of a restart.
        ("inactive", "dead", "118", State.COMING),
        ("failed", "failed", "", State.GIVEN_UP),
        ("failed", "failed", "118", State.COMING),
    ],
)
def test_a_unit_is_coming_while_a_job_is_to_start_it(active: str, sub: str, job: str, state: State) -> None:
    assert state_of({"ActiveState": active, "SubState": sub, "Job": job}) is state


@pytest.mark.parametrize(
    ("span", "seconds"),
    [("45s", 45), ("1min 30s", 90), ("15min 15s", 915), ("2h 500ms", 7_200.5), ("infinity", float("inf"))],
)
def test_spans_of_time_are_read_as_systemd_writes_them(span: str, seconds: float) -> None:
    assert seconds_of(span) == seconds

"""What plugins say: ranges, lines, exit codes, and the file that cron leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from zerver.monitoring.thresholds import Level
from zerver.nagios import state_file
from zerver.nagios.ranges import Range, number_text
from zerver.nagios.report import EXIT_CODES, Finding, Metric, Report

NOW = 1_700_000_000.0


# -- ranges, by the table of the guidelines


@pytest.mark.parametrize(
    ("text", "alerting", "quiet"),
    [
        ("10", [-1, 10.5, 11], [0, 5, 10]),
        ("10:", [9.9, -1], [10, 1000]),
        ("~:10", [10.1], [-1000, 0, 10]),
        ("10:20", [9, 21], [10, 15, 20]),
        ("@10:20", [10, 15, 20], [9, 21]),
        ("0", [1, -1], [0]),
        ("1:", [0], [1, 2]),
        ("2:2", [1, 3], [2]),
        ("-2.5:-1", [-3, 0], [-2]),
        ("@~:0", [-1, 0], [1]),
    ],
)
def test_a_range_alerts_outside_and_with_an_at_inside(
    text: str, alerting: list[float], quiet: list[float]
) -> None:
    parsed = Range.parse(text)

    assert [value for value in alerting if not parsed.alerts(value)] == []
    assert [value for value in quiet if parsed.alerts(value)] == []
    assert Range.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text", ["", ":", "@", "ten", "1e3", "10:5", "1:2:3", " 1", "1,5", "@:", "--1", "nan", "\u0661", "1\n"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no range"):
        Range.parse(text)


@pytest.mark.parametrize(
    ("one", "other", "is_wider"),
    [
        ("60", "30", True),
        ("30", "60", False),
        ("30", "30", False),
        ("1:", "2:2", True),
        ("2:2", "1:", False),
        ("~:10", "10", True),
        ("@1:2", "5", False),
    ],
)
def test_a_range_that_alerts_only_where_another_does_is_the_wider(
    one: str, other: str, is_wider: bool
) -> None:
    assert Range.parse(one).is_wider_than(Range.parse(other)) is is_wider


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (30.0, "30"), (0.00001, "0"), (12.3456, "12.346"), (1e12, "1000000000000")]
)
def test_figures_have_no_exponent(value: float, text: str) -> None:
    assert number_text(value) == text


# -- lines


def report(*findings: tuple[Level, str], metrics: tuple[Metric, ...] = ()) -> Report:
    return Report(
        findings=[Finding(level=level, text=text) for level, text in findings],
        all_well="all is well",
        metrics=metrics,
    )


@pytest.mark.parametrize(
    ("levels", "worst"),
    [
        ([], Level.OK),
        ([Level.OK, Level.WARNING], Level.WARNING),
        ([Level.UNKNOWN, Level.CRITICAL], Level.CRITICAL),
        ([Level.WARNING, Level.UNKNOWN, Level.OK], Level.UNKNOWN),
    ],
)
def test_unknown_hides_no_critical_and_is_hidden_by_no_warning(levels: list[Level], worst: Level) -> None:
    assert report(*((level, "x") for level in levels)).level is worst


def test_exit_codes_are_those_of_the_guidelines() -> None:
    assert {level.name: code for level, code in EXIT_CODES.items()} == {
        "OK": 0,
        "WARNING": 1,
        "CRITICAL": 2,
        "UNKNOWN": 3,
    }


def test_the_first_line_has_the_worst_and_the_figures_and_those_below_it_have_all() -> None:
    metrics = (
        Metric(name="mail", value=12.5, unit="s", warning=Range.up_to(30), critical=Range.parse("10:20")),
        Metric(name="other", value=None),
    )
    said = report(
        (Level.WARNING, "w1"), (Level.OK, "fine"), (Level.CRITICAL, "c"), (Level.UNKNOWN, "u"), (Level.WARNING, "w2"),
        metrics=metrics,
    )  # fmt: skip

    assert said.lines("QUEUES").splitlines() == [
        "QUEUES CRITICAL - c; u; w1; and 1 more | mail=12.5s;30;10:20;0 other=U;;;0",
        "CRITICAL: c",
        "UNKNOWN: u",
        "WARNING: w1",
        "WARNING: w2",
    ]
    assert "OK: fine" in said.lines("QUEUES", is_verbose=True).splitlines()
    assert report((Level.OK, "fine")).lines("QUEUES") == "QUEUES OK - all is well"
    assert report((Level.CRITICAL, "c")).lines("QUEUES") == "QUEUES CRITICAL - c"


def test_what_others_say_ends_neither_the_line_nor_its_text() -> None:
    said = report((Level.UNKNOWN, "a|b\nc\x1b[2Jd " + "x" * 9000)).lines("QUEUES")

    assert said.startswith("QUEUES UNKNOWN - a/b c\\x1b[2Jd xxx")
    assert len(said.splitlines()) == 1
    assert len(said) < 600


# -- the file that cron leaves


def test_what_a_killed_plugin_of_the_same_pid_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "state"
    (tmp_path / f".state.{os.getpid()}.new").write_text("half of")

    state_file.write(path, report((Level.OK, "fine")), now=NOW)

    assert [found.name for found in tmp_path.iterdir()] == ["state"]


def test_what_is_left_for_a_reader_says_the_same_and_all_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    before = os.umask(0o077)
    try:
        state_file.write(path, report((Level.WARNING, "w|1 ü")), now=NOW)
    finally:
        os.umask(before)

    assert path.read_text(encoding="utf-8") == "1700000000|1|WARNING|w/1 ü\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]
    found = state_file.read(path, now=NOW + 119, max_age_seconds=120)
    assert (found.level, found.message) == (Level.WARNING, "w/1 ü")


def test_a_state_file_that_cannot_be_written_leaves_the_old_one_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir()

    with pytest.raises(OSError, match="directory"):
        state_file.write(path, report(), now=NOW)

    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is no state file"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"1700000000|0|OK", "is no state file"),
        (b"1700000000|0|OK|a|b", "is no state file"),
        (b"soon|0|OK|a", "is no state file"),
        (b"1700000000|7|OK|a", "status 7 is not 'OK'"),
        (b"1700000000|2|OK|a", "status 2 is not 'OK'"),
        (b"1699999879|0|OK|a", "was written 121 s ago"),
        (b"1700009999|0|OK|a", "is from the future"),
        (b"9" * 5000 + b"|0|OK|a", "is from the future"),
    ],
)
def test_a_file_that_is_none_or_old_is_unknown(tmp_path: Path, text: bytes, problem: str) -> None:
    path = tmp_path / "state"
    path.write_bytes(text)

    found = state_file.read(path, now=NOW, max_age_seconds=120)

    assert found.level is Level.UNKNOWN
    assert problem in found.message


def test_a_file_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        assert state_file.read(path, now=NOW, max_age_seconds=120).level is Level.UNKNOWN

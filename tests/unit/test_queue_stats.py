"""The stats file."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from zerver.lib.queue_stats import QueueStats, read_stats, remove_stats, stats_path, write_stats


def _stats(**changes: object) -> QueueStats:
    fields: dict[str, object] = {
        "queue": "mail", "worker_num": 2, "host": "web1", "pid": 7, "update_time": 12.5,
        "recent_average_consume_time": None, "queue_last_emptied_timestamp": 3.0, "consumed": 5, "retried": 1,
        "failed": 0, "discarded": 0, "in_flight": 1, "unbegun": 2, "oldest_unbegun_seconds": 0.5,
        "lag_ms": None, "breaker": "",
    }  # fmt: skip
    return QueueStats(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_read_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    write_stats(tmp_path / "new" / "dir", _stats())
    write_stats(tmp_path / "new" / "dir", _stats(consumed=6))
    path = stats_path(tmp_path / "new" / "dir", "mail", 2)
    assert read_stats(path) == _stats(consumed=6)
    assert [found.name for found in path.parent.iterdir()] == ["mail.2.stats"]


def test_what_cannot_be_written_leaves_no_file_behind(tmp_path: Path) -> None:
    stats_path(tmp_path, "mail", 2).mkdir()
    with pytest.raises(OSError, match="directory"):
        write_stats(tmp_path, _stats())
    assert [found.name for found in tmp_path.iterdir()] == ["mail.2.stats"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"queue": "mail"}', "null", "[" * 100_000, "\udcff"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mail.0.stats"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"mail\.0\.stats is no stats file"):
        read_stats(path)


@pytest.mark.parametrize("field", ["update_time", "consumed", "standstill_seconds"])
def test_a_number_that_nobody_could_reckon_with_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "mail.0.stats"
    path.write_text(json.dumps({**asdict(_stats()), field: 10**400}))
    with pytest.raises(ValueError, match=rf"no stats file: {field} is '1000"):
        read_stats(path)


def test_what_may_never_end_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mail.0.stats")
    with pytest.raises(ValueError, match=r"mail\.0\.stats is no stats file: it is none that could be read"):
        read_stats(tmp_path / "mail.0.stats")


def test_what_a_later_release_says_besides_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "mail.0.stats"
    path.write_text(json.dumps({**asdict(_stats()), "weather": "fine"}))
    assert read_stats(path) == _stats()


def test_who_may_read_a_file_stays_as_it_was(tmp_path: Path) -> None:
    write_stats(tmp_path, _stats())
    path = stats_path(tmp_path, "mail", 2)
    path.chmod(0o640)
    write_stats(tmp_path, _stats(consumed=6))
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["mail.2.stats"]


def test_only_who_wrote_a_file_last_takes_it_away(tmp_path: Path) -> None:
    write_stats(tmp_path, _stats(pid=7))
    write_stats(tmp_path, _stats(pid=8))
    remove_stats(tmp_path, "mail", 2, pid=7)
    assert read_stats(stats_path(tmp_path, "mail", 2)).pid == 8
    remove_stats(tmp_path, "mail", 2, pid=8)
    assert list(tmp_path.iterdir()) == []
    remove_stats(tmp_path, "mail", 2, pid=8)

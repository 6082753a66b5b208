"""What scripts/bench --scale does beside measuring: who runs what, shares of processors, and what is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.bench.scale.document import to_markdown
from tests.bench.scale.fleet import deal
from tests.bench.scale.network import CannotScaleError
from tests.bench.scale.result import Node, Point, ScaleResult
from tests.bench.scale.shares import PREFIX, groups, limit, limited

SHARDS = [f"orders.{number}" for number in range(4)]


def point(line: str, workers: int, rate: float) -> Point:
    nodes = [
        Node(leads=1, stored_us=40.0, cpu_us=20.0, busy=0.99),
        Node(leads=0, stored_us=30.0, cpu_us=10.0, busy=0.5),
    ]
    return Point(line=line, workers=workers, rate=rate, cpu_us=30.0, busy=0.8, nodes=nodes)


def result(*, others: float = 0.1) -> ScaleResult:
    return ScaleResult(
        day="2026-01-31",
        machine={"processors": "2 × abacus", "system": "none", "Python": "3.11", "RabbitMQ": "3.10.8, near"},
        minutes=3.5,
        others=others,
        node_share=0.16,
        worker_share=0.08,
        points=[point("spread", 2, 2_000.0), point("spread", 1, 1_000.0), point("one queue", 1, 1_234.0)],
    )


def test_every_shard_is_dealt_once_and_one_queue_to_everybody() -> None:
    assert deal(["orders"], 2) == [
        ["--queue=orders", "--worker_num=1"],
        ["--queue=orders", "--worker_num=2"],
    ]
    assert deal(SHARDS, 1) == [["--multi_threaded", *SHARDS]]
    assert deal(SHARDS, 2) == [
        ["--multi_threaded", "orders.0", "orders.2"],
        ["--multi_threaded", "orders.1", "orders.3"],
    ]
    assert deal(SHARDS, 4) == [[f"--queue={name}"] for name in SHARDS]


def test_more_workers_than_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="5 worker processes have only 4 shards"):
        deal(SHARDS, 5)


def test_a_share_is_written_as_either_version_of_control_groups_reads_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for group in (first, second):
        group.mkdir()
    (first / "cpu.cfs_quota_us").write_text("-1")
    limit(first, 0.16)
    limit(second, 0.001)
    assert [(first / f"cpu.cfs_{what}_us").read_text() for what in ("period", "quota")] == ["20000", "3200"]
    assert (second / "cpu.max").read_text() == "1000 20000", "the kernel takes no less"


def test_what_a_killed_run_left_is_swept_and_nobody_elses(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, living = tmp_path / f"{PREFIX}{ended.pid}-7", tmp_path / f"{PREFIX}{os.getpid()}-7"
    for group in (left, living, tmp_path / "somebody"):
        group.mkdir()
    with limited(tmp_path, []):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["somebody", living.name]


def test_control_groups_are_found_in_either_version_and_missed_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(CannotScaleError, match=str(tmp_path)):
        groups(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("io cpu memory\n")
    assert groups(tmp_path) == tmp_path
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").touch()
    assert groups(tmp_path) == tmp_path / "cpu"


def test_a_result_survives_being_kept_and_its_lines_are_in_order(tmp_path: Path) -> None:
    result().write(tmp_path / "scale.json")
    kept = ScaleResult.read(tmp_path / "scale.json")
    assert kept == result()
    assert kept.lines == ["spread", "one queue"]
    assert [each.workers for each in kept.line("spread")] == [1, 2]


def test_the_table_has_a_row_for_each_point_and_says_where_the_machine_was_busy() -> None:
    told = to_markdown(result())
    assert (
        "| one queue | 1 | 1,230 | 80% | 30.0 µs | 1 · 0 | 40.0 · 30.0 µs | 20.0 · 10.0 µs | 99% · 50% |"
        in told
    )
    assert "worth quoting" not in told
    assert "No rate here is worth quoting: 70%" in to_markdown(result(others=0.7))

"""A snapshot as Prometheus reads it: what is known is told, and what is not is left out."""

from __future__ import annotations

import socket
import threading
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from zerver.lib.latency import Histogram
from zerver.lib.pauses import Pause
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Depth, Unbegun
from zerver.monitoring.metrics.families import families
from zerver.monitoring.metrics.server import MetricsServer
from zerver.monitoring.snapshot import QueueSnapshot, Snapshot
from zerver.monitoring.tally import Tally

LETTERS = QueueDeclaration(name="letters", module="post.queue_processors", warn_seconds=5, crit_seconds=7)


def queue(**fields: Any) -> QueueSnapshot:
    lanes = {"rabbitmq": Depth(ready=3, consumers=1, later=0), "database": Depth(ready=0, unacked=0, later=9)}
    known: dict[str, Any] = {"name": "letters", "declaration": LETTERS, "lanes": lanes}
    return QueueSnapshot(**known | fields)


def told(*queues: QueueSnapshot, processes: Any = ()) -> dict[str, float]:
    """Every sample, by its name and labels as they are exposed."""
    snapshot = Snapshot(taken_at_ms=1_500, queues=queues, processes=processes)

    class Once(Collector):
        def collect(self) -> list[Metric]:
            return list(families(snapshot))

    registry = CollectorRegistry()
    registry.register(Once())
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_lanes_are_told_apart_and_what_one_does_not_tell_is_left_out() -> None:
    found = told(queue())
    assert found['zerver_queue_ready_events{lane="rabbitmq",queue="letters"}'] == 3
    assert found['zerver_queue_ready_events{lane="database",queue="letters"}'] == 0
    assert found['zerver_queue_later_events{lane="database",queue="letters"}'] == 9
    assert 'zerver_queue_unacked_events{lane="rabbitmq",queue="letters"}' not in found


def test_of_a_queue_of_which_nothing_is_known_there_is_no_figure_at_all() -> None:
    found = told(queue(lanes={"rabbitmq": Depth(), "database": Depth()}), processes=None)
    assert {name.partition("{")[0] for name in found} == {
        "zerver_up",
        "zerver_snapshot_timestamp_seconds",
        "zerver_queue_backlog_warning_seconds",
        "zerver_queue_backlog_critical_seconds",
        "zerver_queue_level",
    }
    assert found['zerver_up{part="database"}'] == found['zerver_up{part="broker"}'] == 0
    assert found['zerver_queue_level{level="unknown",queue="letters"}'] == 1


def test_without_a_broker_nothing_is_told_of_one() -> None:
    found = told(queue(lanes={"database": Depth(ready=0, unacked=0, later=0)}))
    assert found['zerver_up{part="database"}'] == 1
    assert 'zerver_up{part="broker"}' not in found


def test_thresholds_are_those_of_the_queue_and_only_where_workers_should_be() -> None:
    disabled = QueueDeclaration(name="disabled", module="post.queue_processors", enabled=False)
    found = told(queue(), queue(name="disabled", declaration=disabled), queue(name="gone", declaration=None))
    thresholds = {name: value for name, value in found.items() if "_backlog_" in name}
    assert thresholds == {
        'zerver_queue_backlog_warning_seconds{queue="letters"}': 5,
        'zerver_queue_backlog_critical_seconds{queue="letters"}': 7,
    }
    assert not any(name.startswith("zerver_queue_level") and "gone" in name for name in found)


def test_events_in_a_lane_that_nobody_takes_from_are_told_once_everybody_could_be_asked() -> None:
    lanes = {"rabbitmq": Depth(ready=4, consumers=0, later=0), "database": Depth(ready=2, unacked=0, later=0)}
    name = 'zerver_queue_untaken_events{queue="letters"}'
    assert told(queue(lanes=lanes, workers=0))[name] == 6
    assert told(queue(lanes=lanes, workers=1))[name] == 4
    assert name not in told(queue(lanes=lanes))


def test_whether_a_queue_is_paused_is_told_where_the_database_could_be_asked() -> None:
    pause = Pause(at_ms=1, by="ada", reason="4111 1111 1111 1111")
    assert told(queue(workers=1, paused=pause))['zerver_queue_paused{queue="letters"}'] == 1
    assert told(queue(workers=1))['zerver_queue_paused{queue="letters"}'] == 0
    assert 'zerver_queue_paused{queue="letters"}' not in told(queue())


def test_what_workers_have_in_hand_is_parted_into_begun_and_not() -> None:
    found = told(queue(workers=1, held_by_workers=10, unbegun=Unbegun(count=9, oldest_ms=2_500)))
    assert found['zerver_queue_in_flight_events{queue="letters"}'] == 1
    assert found['zerver_queue_unbegun_events{queue="letters"}'] == 9
    assert found['zerver_queue_oldest_event_seconds{queue="letters"}'] == 2.5


def test_no_reason_is_told_only_whether_there_is_one() -> None:
    found = told(queue(breaker="ValueError: 4111 1111 1111 1111", failing=""))
    assert found['zerver_queue_breaker_open{queue="letters"}'] == 1
    assert found['zerver_queue_failing{queue="letters"}'] == 0
    assert not any("4111" in name for name in found)


def test_counts_and_durations_are_those_of_all_times() -> None:
    times = Histogram()
    times.add(4)
    times.add(700, 3)
    times.add(9_000_000)
    found = told(queue(tally=Tally(consumed=5, retried=4, failed=3, discarded=2, consume_times=times)))
    counts = [
        found[f'zerver_queue_{kind}_total{{queue="letters"}}'] for kind in ("consumed", "retried", "failed")
    ]
    assert counts == [5, 4, 3]
    bucket = 'zerver_queue_consume_seconds_bucket{{le="{}",queue="letters"}}'
    assert [found[bucket.format(limit)] for limit in ("0.001", "0.005", "0.5", "1.0", "1800.0", "+Inf")] == [
        *(0, 1, 1, 4, 4, 5)
    ]
    assert found['zerver_queue_consume_seconds_count{queue="letters"}'] == 5
    assert abs(found['zerver_queue_consume_seconds_sum{queue="letters"}'] / 9_002.1 - 1) < 0.05


def test_a_resolver_that_does_not_know_this_host_keeps_nobody_from_listening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("it would wait for the resolver")

    monkeypatch.setattr(socket, "getfqdn", ask)
    with MetricsServer("127.0.0.1", 0, CollectorRegistry()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with urlopen(f"http://127.0.0.1:{server.server_address[1]}/metrics", timeout=10) as answer:
                assert answer.status == 200
        finally:
            server.shutdown()
            thread.join()

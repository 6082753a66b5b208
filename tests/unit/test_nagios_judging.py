"""What plugins make of what they see: declarations, consumers, backlogs, trouble."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pika.exceptions import ChannelClosedByBroker

from zerver.lib.process_mark import start_mark
from zerver.lib.queue_stats import QueueStats, write_stats
from zerver.monitoring.thresholds import Level
from zerver.nagios import backlog, consumers, declared, management_api, stats, worker_errors
from zerver.nagios.amqp import Amqp
from zerver.nagios.broker import Login, Place, Seen, all_missing, missing, unled
from zerver.nagios.database import DueSchedule, Trouble, of_queues
from zerver.nagios.declared import Declared
from zerver.nagios.errors import NoAnswer
from zerver.nagios.ranges import Range
from zerver.nagios.report import Finding, Report

NOW = 1_700_000_000.0
MAIL = Declared(
    queue="mail", workers=2, threads=1, timeout_seconds=30.0, warn_seconds=30.0, crit_seconds=60.0
)


def told(**changes: object) -> QueueStats:
    fields: dict[str, object] = {
        "queue": "mail", "worker_num": 1, "host": "web1", "pid": 7, "update_time": NOW - 2,
        "recent_average_consume_time": 0.5, "queue_last_emptied_timestamp": None, "consumed": 5, "retried": 0,
        "failed": 0, "discarded": 0, "in_flight": 1, "unbegun": 0, "oldest_unbegun_seconds": None,
        "lag_ms": 100, "breaker": "",
    }  # fmt: skip
    return QueueStats(**{**fields, **changes})  # type: ignore[arg-type]


# -- declarations


def written(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def facts(**changes: object) -> dict[str, object]:
    return {
        "workers": 2,
        "threads": 3,
        "timeout_seconds": 30,
        "warn_seconds": 30.0,
        "crit_seconds": 60.0,
        **changes,
    }


def test_declarations_are_read_and_a_field_more_or_without_threads_is_no_harm(tmp_path: Path) -> None:
    said = {"mail": facts(weather="fine"), "old": {**facts()}}
    del said["old"]["threads"]
    path = written(tmp_path / "queues.json", {"format": 1, "queues": said, "more": 1})

    found = declared.read(path)

    assert [(queue.queue, queue.workers, queue.threads) for queue in found.values()] == [
        ("mail", 2, 3),
        ("old", 2, 1),
    ]
    assert [queue.queue for queue in declared.chosen(found, ["old"], path)] == ["old"]
    with pytest.raises(NoAnswer, match=r"does not know queue 'mial'; did you mean 'mail'\?"):
        declared.chosen(found, ["mial"], path)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\x00\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "is no JSON"),
        ([], "tells of no queues"),
        ({"format": 1, "queues": {}}, "tells of no queues"),
        ({"format": 2, "queues": {"mail": facts()}}, "is of format 2, and this plugin reads 1"),
        ({"format": 1, "queues": {"Über": facts()}}, "where a queue should stand"),
        ({"format": 1, "queues": {"a b|c": facts()}}, "where a queue should stand"),
        ({"format": 1, "queues": {"mail": []}}, "where a queue should stand"),
        ({"format": 1, "queues": {"mail": facts(workers=0)}}, "workers of queue mail is '0'"),
        ({"format": 1, "queues": {"mail": facts(workers=True)}}, "workers of queue mail is 'True'"),
        ({"format": 1, "queues": {"mail": facts(threads="2")}}, "threads of queue mail is '2'"),
        ({"format": 1, "queues": {"mail": facts(crit_seconds=None)}}, "crit_seconds of queue mail is 'None'"),
        (
            {"format": 1, "queues": {"mail": facts(warn_seconds=90)}},
            "warns at 90 s, after it is critical at 60 s",
        ),
    ],
)
def test_declarations_that_make_no_sense_are_unknown_and_say_the_mend(
    tmp_path: Path, value: object, problem: str
) -> None:
    path = written(tmp_path / "queues.json", value)

    with pytest.raises(NoAnswer) as caught:
        declared.read(path)

    assert problem in str(caught.value)
    assert caught.value.mend
    assert caught.value.level is Level.UNKNOWN


def test_declarations_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(NoAnswer) as caught:
            declared.read(path)
        assert caught.value.level is Level.UNKNOWN


# -- stats files


def test_a_worker_at_an_unknown_queue_shows_that_declarations_are_out_of_date(tmp_path: Path) -> None:
    write_stats(tmp_path, told())
    write_stats(tmp_path, told(queue="fresh"))
    write_stats(tmp_path, told(queue="gone", update_time=NOW - 3600))
    (tmp_path / "garbage.0.stats").write_text("{")

    workers = stats.Workers.read(tmp_path, now=NOW)
    [finding] = workers.strangers(["mail"], Path("/etc/shop/queues.json"))

    assert finding.level is Level.UNKNOWN
    assert finding.text.startswith(
        "/etc/shop/queues.json is out of date: workers run at fresh, which it does not know"
    )
    assert "queue_config declarations --file=/etc/shop/queues.json --write" in finding.text
    assert workers.strangers(["mail", "fresh"], Path("/x")) == []
    assert workers.doubts == []


@pytest.mark.parametrize(
    ("said", "crit_seconds"),
    [
        ([{"threads": 3, "timeout_seconds": 9.0, "warn_seconds": 5, "crit_seconds": 90.0}], 90.0),
        ([{"threads": 1, "timeout_seconds": 9.0, "warn_seconds": 5, "crit_seconds": crit} for crit in (8, 90)], 8),
        ([{"threads": 1, "timeout_seconds": 9.0, "warn_seconds": 50, "crit_seconds": 40}], 60.0),
        ([{"threads": -1, "timeout_seconds": 9.0, "warn_seconds": 5, "crit_seconds": 40}], 60.0),
        ([{}], 60.0),
        ([], 60.0),
    ],
)  # fmt: skip
def test_what_workers_run_with_goes_before_what_the_file_says(
    tmp_path: Path, said: list[dict[str, float]], crit_seconds: float
) -> None:
    for number, lived in enumerate(said):
        write_stats(tmp_path, told(worker_num=number, **lived))

    found = stats.Workers.read(tmp_path, now=NOW).of("mail").lived(MAIL)

    assert found.crit_seconds == crit_seconds
    assert (found == MAIL) is (crit_seconds == MAIL.crit_seconds)


def test_stats_are_told_apart_by_age_and_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    write_stats(tmp_path, told())
    write_stats(tmp_path, told(worker_num=2, update_time=NOW - 61))
    write_stats(tmp_path, told(queue="mail_more"))
    (tmp_path / "mail.3.stats").write_text("nothing")

    found = stats.Workers.read(tmp_path, now=NOW).of("mail")

    assert [one.worker_num for one in found.fresh] == [1]
    assert [one.worker_num for one in found.old] == [2]
    [problem] = found.problems
    assert "mail.3.stats is no stats file" in problem
    [doubt] = stats.Workers.read(tmp_path / "none", now=NOW).doubts
    assert (doubt.level, "let --stats-dir name" in doubt.text) == (Level.UNKNOWN, True)


def test_a_worker_that_is_known_to_have_ended_is_not_missed(tmp_path: Path) -> None:
    here, mark = socket.gethostname(), start_mark(os.getpid())
    earlier = mark.rpartition(":")[0] + ":1"
    for number, (host, said, age) in enumerate(
        [("web2", earlier, 600), (here, mark, 600), (here, earlier, 600), ("web2", mark, 86_401)]
    ):
        lately = {"host": host, "pid": os.getpid(), "start_mark": said, "update_time": NOW - age}
        write_stats(tmp_path, told(worker_num=number, **lately))

    assert [one.worker_num for one in stats.Workers.read(tmp_path, now=NOW).of("mail").old] == [0, 1]


# -- consumers


@pytest.mark.parametrize(
    ("seen", "hosts", "level", "text"),
    [
        (Seen(ready=0, consumers=2), 1, Level.OK, "queue mail has 2 consumers"),
        (Seen(ready=0, consumers=4), 2, Level.OK, "queue mail has 4 consumers"),
        (
            Seen(ready=0, consumers=0),
            1,
            Level.CRITICAL,
            "queue mail has no consumer, 2 declared: start its workers",
        ),
        (
            Seen(ready=0, consumers=1),
            1,
            Level.WARNING,
            "queue mail has 1 consumer, 2 declared: start its workers",
        ),
        (Seen(ready=0, consumers=2), 2, Level.WARNING, "queue mail has 2 consumers, 4 declared"),
        (
            Seen(ready=0, consumers=3),
            1,
            Level.WARNING,
            "queue mail has 3 consumers, 2 declared: another worker shares it",
        ),
        (missing("shop"), 1, Level.CRITICAL, "queue mail does not exist in vhost shop: start its workers"),
        (unled("noproc"), 1, Level.CRITICAL, "queue mail: its leader does not answer (noproc)"),
        (Seen(problem="may not look"), 1, Level.UNKNOWN, "queue mail: may not look"),
    ],
)
def test_consumers_are_as_declared_or_it_is_said(seen: Seen, hosts: int, level: Level, text: str) -> None:
    finding = consumers.judge(MAIL, seen, *consumers.usual_ranges(MAIL, hosts), wanted=MAIL.workers * hosts)

    assert finding.level is level
    assert finding.text.startswith(text)


def test_a_queue_that_is_paused_has_no_consumer_by_wish() -> None:
    ranges = consumers.usual_ranges(MAIL, 1)
    finding = consumers.judge(
        MAIL, Seen(ready=0, consumers=0), *ranges, wanted=2, paused="paused by al since 12:00"
    )

    assert finding.level is Level.WARNING
    assert (
        finding.text
        == "queue mail is paused by al since 12:00: ./manage.py queue_workers resume --queue mail"
    )


def test_where_no_queue_is_there_the_vhost_is_doubted() -> None:
    [finding] = all_missing([missing("/"), missing("/")], "/")

    assert (finding.level, finding.text.partition(":")[0]) == (
        Level.CRITICAL,
        "none of the 2 queues is in vhost /",
    )
    assert all_missing([missing("/")], "/") == []
    assert all_missing([missing("/"), Seen(ready=0, consumers=1)], "/") == []


# -- what the broker says


QUORUM = {"name": "mail", "leader": "a", "members": ["a", "b", "c"], "online": ["a", "b"]}
FIGURES = {"messages_ready": 3, "consumers": 1}


@pytest.mark.parametrize(
    ("item", "is_its_own", "expected"),
    [
        (FIGURES, False, Seen(ready=3, consumers=1)),
        ({**QUORUM, **FIGURES}, False, Seen(ready=3, consumers=1)),
        ({**QUORUM, **FIGURES, "online": ["a"]}, False, unled("2 of the 3 nodes that it stands on are away")),
        ({**QUORUM, **FIGURES, "leader": None}, False, unled("none of its nodes leads it")),
        (QUORUM, True, unled("the management API has no figures of it")),
    ],
)
def test_the_management_api_tells_of_a_queue_without_a_leader(
    item: dict[str, Any], is_its_own: bool, expected: Seen
) -> None:
    assert management_api._seen(item, is_its_own=is_its_own) == expected


def test_a_queue_that_has_no_figures_yet_may_have_them_soon() -> None:
    seen = management_api._seen(QUORUM, is_its_own=False)

    assert (seen.level, seen.ready, "ask again in some seconds" in seen.problem) == (
        Level.UNKNOWN,
        None,
        True,
    )


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (404, "NOT_FOUND - no queue 'mail' in vhost '/'", missing("/")),
        (
            404, "NOT_FOUND - home node 'rabbit@two' of durable queue 'mail' in vhost '/' is down or inaccessible",
            unled("NOT_FOUND - home node 'rabbit@two' of durable queue 'mail' in vhost '/' is down or inaccessible"),
        ),
    ],
)  # fmt: skip
def test_a_queue_whose_node_is_down_is_there_and_does_not_answer(
    code: int, text: str, expected: Seen
) -> None:
    login = Login(user="shop", password_file=None)
    place = Place(hosts=["a"], port=5672, virtual_host="/", login=login, uses_tls=False, cafile=None)

    assert Amqp(place)._refused(ChannelClosedByBroker(code, text)) == expected


# -- backlogs


def judged(
    seen: Seen, *fresh: QueueStats, old: tuple[QueueStats, ...] = (), queue: Declared = MAIL
) -> Report:
    measured = backlog.measure(queue, seen, stats.Told(fresh=fresh, old=old), now=NOW)
    findings = backlog.judge(
        queue, measured, Range.up_to(queue.warn_seconds), Range.up_to(queue.crit_seconds)
    )
    return Report(findings=findings, all_well=findings[0].text)


@pytest.mark.parametrize(
    ("ready", "level", "text"),
    [
        (0, Level.OK, "queue mail is 0 s behind, 0 ready"),
        (100, Level.OK, "queue mail is 25 s behind, 100 ready"),
        (160, Level.WARNING, "queue mail is 40 s behind, 160 ready"),
        (1000, Level.CRITICAL, "queue mail is 250 s behind, 1000 ready"),
    ],
)
def test_a_backlog_is_what_is_ready_times_the_mean_by_the_consumers(
    ready: int, level: Level, text: str
) -> None:
    found = judged(Seen(ready=ready, consumers=2), told())

    assert (found.level, found.message) == (level, text)


def test_handlers_of_a_process_share_the_backlog() -> None:
    queue = Declared(
        queue="mail", workers=2, threads=10, timeout_seconds=30, warn_seconds=30, crit_seconds=60
    )

    assert (
        judged(Seen(ready=1000, consumers=2), told(), queue=queue).message
        == "queue mail is 25 s behind, 1000 ready"
    )


@pytest.mark.parametrize(
    ("seen", "fresh", "old", "level", "text"),
    [
        (Seen(ready=1, consumers=0), [told()], [], Level.CRITICAL, "nobody takes from it: start its workers"),
        (Seen(ready=0, consumers=0), [], [], Level.OK, "0 s behind"),
        (missing("shop"), [], [], Level.CRITICAL, "does not exist in vhost shop"),
        (unled(), [], [], Level.CRITICAL, "its leader does not answer: see rabbitmq-diagnostics"),
        (
            Seen(ready=3, consumers=1), [told(standstill_seconds=59.0, update_time=NOW - 2)], [],
            Level.CRITICAL, "3 events wait, and its workers get nothing done for 61 s, with 1 in hand",
        ),
        (Seen(ready=0, consumers=1), [told(standstill_seconds=70.0)], [], Level.CRITICAL, "get nothing done"),
        (Seen(ready=3, consumers=1), [told(standstill_seconds=50.0)], [], Level.OK, "behind"),
        (Seen(ready=3, consumers=1), [told(standstill_seconds=None)], [], Level.OK, "behind"),
        (
            Seen(ready=3, consumers=2), [told(standstill_seconds=900.0), told(standstill_seconds=0.0)], [],
            Level.WARNING, "worker 1 of queue mail (pid 7 on web1) has got nothing done for 902 s, with 1 in hand",
        ),
        (Seen(problem="may not look"), [], [], Level.UNKNOWN, "may not look"),
        (
            Seen(ready=3, consumers=1), [], [told(update_time=NOW - 300)],
            Level.CRITICAL, "3 events wait, and its workers have said nothing for 300 s, and had 1 in hand then",
        ),
        (
            Seen(ready=0, consumers=1), [], [told(update_time=NOW - 600, unbegun=99)],
            Level.CRITICAL, "queue mail: its workers have said nothing for 600 s, and had 100 in hand then",
        ),
        (
            Seen(ready=3, consumers=1), [], [told(update_time=NOW - 600, in_flight=0)],
            Level.UNKNOWN, "its workers have said nothing for 600 s, and had nothing in hand then",
        ),
        (
            Seen(ready=0, consumers=0), [], [told(update_time=NOW - 600, in_flight=0)],
            Level.UNKNOWN, "its workers have said nothing for 600 s, and had nothing in hand then",
        ),
        (
            Seen(ready=3, consumers=1), [], [told(update_time=NOW + 300)],
            Level.UNKNOWN, "the clock of its workers is ahead of this host's by 300 s",
        ),
        (Seen(ready=3, consumers=2), [told()], [told(update_time=NOW - 300)], Level.OK, "behind"),
        (Seen(ready=3, consumers=1), [], [], Level.UNKNOWN, "how fast they are taken is not known"),
        (
            Seen(ready=3, consumers=1), [told(recent_average_consume_time=None, lag_ms=None)], [],
            Level.UNKNOWN, "how fast they are taken is not known",
        ),
        (Seen(ready=9, consumers=1), [told(recent_average_consume_time=0.0)], [], Level.OK, "0 s behind, 9 ready"),
        (
            Seen(ready=0, consumers=1), [told(unbegun=3, oldest_unbegun_seconds=70.0)], [],
            Level.CRITICAL, "is 72 s behind",
        ),
        (Seen(ready=1, consumers=1), [told(lag_ms=90_000)], [], Level.WARNING, "had been published 90 s before"),
        (Seen(ready=0, consumers=1), [told(lag_ms=90_000)], [], Level.OK, "0 s behind"),
        (
            Seen(ready=1, consumers=2), [told(breaker="mail server is down"), told(breaker="mail server is down")], [],
            Level.CRITICAL, "its workers take none: mail server is down",
        ),
        (Seen(ready=1, consumers=2), [told(breaker="down"), told()], [], Level.OK, "behind"),
        (Seen(ready=9, consumers=0), [told(paused="paused by al")], [], Level.WARNING, "is paused by al; 9 ready"),
        (Seen(ready=9, consumers=0), [told(paused="paused by al"), told()], [], Level.CRITICAL, "nobody takes from it"),
    ],
)  # fmt: skip
def test_whoever_gets_nowhere_is_told_with_the_reason(
    seen: Seen, fresh: list[QueueStats], old: list[QueueStats], level: Level, text: str
) -> None:
    found = judged(seen, *fresh, old=tuple(old))

    assert found.level is level
    assert text in found.message


def test_one_worker_that_says_nothing_any_more_is_told_although_others_get_on() -> None:
    me = os.getpid()
    mark = start_mark(me)
    frozen = told(
        update_time=NOW - 300, in_flight=2, unbegun=3, host=socket.gethostname(), pid=me, start_mark=mark
    )

    found = judged(Seen(ready=0, consumers=2), told(), old=(frozen,))

    assert found.level is Level.WARNING
    assert f"(pid {me} on {frozen.host}) has said nothing for 300 s, and had 5 in hand then" in found.message
    another = replace(frozen, start_mark=mark.rpartition(":")[0] + ":1")
    idle = replace(frozen, in_flight=0, unbegun=0)
    for nobody_known in (another, replace(frozen, start_mark=None), idle):
        assert judged(Seen(ready=0, consumers=2), told(), old=(nobody_known,)).level is Level.OK


def test_a_stats_file_that_is_none_hides_no_critical() -> None:
    problem = stats.Told(fresh=[told()], problems=["/x/mail.2.stats is no stats file"])
    ranges = Range.up_to(30), Range.up_to(60)
    for ready, level in ((0, Level.UNKNOWN), (1000, Level.CRITICAL)):
        measured = backlog.measure(MAIL, Seen(ready=ready, consumers=2), problem, now=NOW)
        assert Report(findings=backlog.judge(MAIL, measured, *ranges), all_well="").level is level


# -- trouble


def trouble_found(trouble: Trouble, critical: Range | None = None) -> Mapping[str, Level]:
    findings: list[Finding] = list(worker_errors.judge({"mail": MAIL}, trouble, worker_errors.ANY, critical))
    return {finding.text: finding.level for finding in findings}


@pytest.mark.parametrize(
    ("known", "critical", "expected"),
    [
        ({}, None, {"no failed event, and none in quarantine": Level.OK}),
        ({"failed": {"mail": 2, "a": 1}}, None, {"3 failed events (a 1, mail 2)": Level.WARNING}),
        ({"failed": {"mail": 2}, "suspects": {"mail": 1}}, "2",
         {"2 failed events (mail 2)": Level.CRITICAL, "1 event in quarantine (mail 1)": Level.CRITICAL}),
        ({"due_seconds": {"mail": 5.0}}, None, {"queue mail: its next row has been due for 5 s": Level.OK}),
        ({"due_seconds": {"mail": 45.0}}, None, {"queue mail has a row in the event table that": Level.WARNING}),
        ({"due_seconds": {"mail": 90.0}}, None, {"queue mail has a row in the event table that": Level.CRITICAL}),
        ({"due_seconds": {"mail": 90.0}, "paused": ["mail"]}, None, {"queue mail is paused, and a row": Level.WARNING}),
        (
            {"due_seconds": {"gone": 1.0}}, None,
            {"queue gone has a row in the event table that nobody takes, due for 1 s; disabled here, or not declared: "
             "./manage.py queue_explain gone tells which": Level.WARNING},
        ),
        ({"due_schedules": [DueSchedule(name="a", seconds=119.0)]}, None,
         {"schedule a has been due for 119 s": Level.OK}),
        (
            {"due_schedules": [DueSchedule(name="a b", seconds=121.0, is_declared=True)]}, None,
            {"schedule a b has been due for 121 s, and nobody has had it tick: see that a queue_scheduler "
             "runs, and ./manage.py queue_schedules list; where code declares it no more: ./manage.py queue_schedules "
             "delete 'a b'": Level.WARNING},
        ),
        (
            {"due_schedules": [DueSchedule(name="a", seconds=601.0, problem="KeyError: 1", is_declared=True)]}, None,
            {"schedule a has been due for 601 s, and fails, see ./manage.py queue_schedules list: KeyError: 1":
             Level.CRITICAL},
        ),
    ],
)  # fmt: skip
def test_trouble_is_counted_by_ranges_and_rows_by_their_queues_thresholds(
    known: dict[str, Any], critical: str | None, expected: dict[str, Level]
) -> None:
    found = trouble_found(Trouble(**known), None if critical is None else Range.parse(critical))

    for start, level in expected.items():
        assert [found[text] for text in found if text.startswith(start)] == [level]


def test_of_the_queues_named_alone() -> None:
    trouble = Trouble(failed={"a": 1, "b": 2}, suspects={"b": 1}, due_seconds={"a": 3.0}, due_schedules=[])

    assert of_queues(trouble, ["a"]) == Trouble(failed={"a": 1}, due_seconds={"a": 3.0})
    assert of_queues(trouble, []) == trouble

"""A process that publishes, the same for every peer: ``python -m tests.bench.publish APP JOB``, in its environment.

APP is a module with a ``Publisher``: made once, in the main thread, before the clock runs.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tests.bench.events import Templates
from tests.bench.job import Done, Job

#: Environment of every publishing process: where the templates are, and where what it tells goes.
EVENTS, RESULT = "BENCH_EVENTS", "BENCH_RESULT"
#: Set, before the app is imported, where the job asks for no confirms.
UNCONFIRMED = "BENCH_UNCONFIRMED"
#: Of the events of the warm-up: nobody asks when it was handled.
WARM_UP_NUMBER = 0

Event = Mapping[str, Any]


class Publisher(Protocol):
    """What an app has. Every method returns when the broker has confirmed, unless ``$BENCH_UNCONFIRMED`` is set."""

    def publish(self, event: Event) -> None:
        """In any thread."""

    def publish_many(self, events: Sequence[Event]) -> None:
        """The quickest way that the peer has."""

    def atomic(self, event: Event | None) -> None:
        """What a request does: a transaction that writes a row, and publishes the event if there is one."""


def run(publisher: Publisher, job: Job, templates: Templates) -> Done:
    warm_up = templates.event(WARM_UP_NUMBER)
    match job.verb:
        case "one":
            return _timed_each(publisher.publish, job, templates)
        case "atomic":
            return _timed_each(publisher.atomic, job, templates)
        case "nothing":
            return _timed_each(lambda _: publisher.atomic(None), job, templates)
        case "many":
            events = list(templates.events(job.first, job.count))
            publisher.publish_many([warm_up] * job.warm_ups)
            return _timed(lambda: publisher.publish_many(events))
        case "paced":
            publisher.publish_many([warm_up] * job.warm_ups)
            return _timed(lambda: _pace(publisher, job, templates))


def _timed(work: Callable[[], object]) -> Done:
    cpu_ns, began_ns = time.process_time_ns(), time.monotonic_ns()
    work()
    ended_ns = time.monotonic_ns()
    return Done(began_ns=began_ns, ended_ns=ended_ns, cpu_ns=time.process_time_ns() - cpu_ns)


def _timed_each(publish: Callable[[Event], object], job: Job, templates: Templates) -> Done:
    """With the time of each; several threads share the events evenly, each beginning when all are warm."""
    events = list(templates.events(job.first, job.count))
    warm_up = templates.event(WARM_UP_NUMBER)
    took_ns: list[int] = []
    all_warm = threading.Barrier(job.threads + 1)

    each_began_ns: list[int] = []

    def work(part: Sequence[Event]) -> None:
        work_began_ns = time.monotonic_ns()
        for event in part:
            if job.per_second:
                _sleep_until(job.due_ns(work_began_ns, event["n"]))
            began_ns = time.monotonic_ns()
            publish(event)
            took_ns.append(time.monotonic_ns() - began_ns)
            each_began_ns.append(began_ns)

    def work_in_thread(part: Sequence[Event]) -> None:
        publish(warm_up)
        all_warm.wait()
        work(part)

    def work_in_threads() -> None:
        all_warm.wait()
        for thread in threads:
            thread.join()

    threads = []
    if job.threads == 1:
        for _ in range(job.warm_ups):
            publish(warm_up)
        done = _timed(lambda: work(events))
    else:
        for number in range(job.threads):
            threads.append(
                threading.Thread(target=work_in_thread, args=(events[number :: job.threads],), daemon=True)
            )
            threads[-1].start()
        done = _timed(work_in_threads)
    if len(took_ns) != job.count:
        raise SystemExit(f"{job.count - len(took_ns)} of {job.count} events were not published: see above")
    return replace(done, took_ns=took_ns, each_began_ns=each_began_ns)


def _pace(publisher: Publisher, job: Job, templates: Templates) -> None:
    """By the clock, and not by when the last one was done: who is late catches up, and its events are late. Where they
    come in bursts, he publishes together what has become due meanwhile.
    """
    began_ns = time.monotonic_ns()
    first, end = job.first, job.first + job.count
    while first < end:
        events = list(templates.events(first, min(job.burst, end - first)))
        _sleep_until(job.due_ns(began_ns, first))
        first += len(events)
        if job.burst == 1:
            publisher.publish(events[0])
            continue
        now_ns = time.monotonic_ns()
        while first < end and job.due_ns(began_ns, first) <= now_ns:
            late = min(job.burst, end - first)
            events += templates.events(first, late)
            first += late
        publisher.publish_many(events)


def _sleep_until(at_ns: int) -> None:
    time.sleep(max(0.0, (at_ns - time.monotonic_ns()) / 1e9))


def main(app: str, told: str) -> None:
    job = Job.of_json(told)
    if not job.is_confirmed:
        os.environ[UNCONFIRMED] = "1"
    templates = Templates(Path(os.environ[EVENTS]))
    publisher: Publisher = importlib.import_module(app).Publisher()
    run(publisher, job, templates).write(Path(os.environ[RESULT]))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What is made of py-spy's stacks."""

import pytest

from tests.bench.profile import FIGURES, REST, Profile, count, part_of

MAIN = "thread (7): MainThread;<module> (manage.py:9);QueueRunner._handle (zerver/worker/runner.py:345)"


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (
            "thread (8): zerver-worker-io;IOLoop.turn (zerver/lib/transport/rabbitmq/ioloop.py:104)",
            "reading_us",
        ),
        (f"{MAIN};Journey.travel_alone (zerver/worker/journey.py:85)", "journey_us"),
        (f"{MAIN};Intake.take (zerver/worker/intake.py:85)", "lane_us"),
        (f"{MAIN};QueueRunner._work (zerver/worker/runner.py:85)", "way_us"),
        (
            f"{MAIN};Counters.done (zerver/worker/counters.py:76);Histogram.add (zerver/lib/latency.py:30)",
            "counting_us",
        ),
        (f"{MAIN};freshen (zerver/worker/surroundings.py:79);__get__ (django/db/utils.py:3)", "guard_us"),
        (f"{MAIN};EventType.decode (zerver/lib/event.py:85)", "author_us"),
        (f"{MAIN};SmallWorker.consume (tests/bench/project/queue_processors.py:47)", "author_us"),
        (f"{MAIN};Carrying.__enter__ (zerver/lib/trace.py:78)", "tracing_us"),
        (f"{MAIN};now_ms (zerver/lib/clock.py:40)", "way_us"),
        (
            f"{MAIN};Counters.done (zerver/worker/counters.py:76);now_ms (zerver/lib/clock.py:40)",
            "counting_us",
        ),
        ("thread (9): zerver-vitals;wait (threading.py:331)", REST),
    ],
)
def test_a_sample_belongs_to_the_innermost_of_our_files_and_a_thread_that_reads_to_reading(
    stack: str, part: str
) -> None:
    assert part_of(stack) == part


def test_shares_are_of_all_samples() -> None:
    profile = Profile()
    profile.samples = count(f"{MAIN} 3\n{MAIN};EventType.decode (zerver/lib/event.py:85) 1\n")
    shares = profile.shares()
    assert list(shares) == list(FIGURES)
    assert shares["way_us"] == 0.75
    assert shares["author_us"] == 0.25
    assert sum(shares.values()) == 1

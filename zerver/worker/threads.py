"""Threads that do one job together."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def running(threads: Sequence[threading.Thread], stop: Callable[[], None]) -> Iterator[None]:
    """They run beside the block, and all have ended after it; ``stop`` tells them to, once the block has raised.

    Raises: RuntimeError where the system gives no more threads, having stopped those that it gave.
    """
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        yield
    except BaseException:
        stop()
        raise
    finally:
        for thread in started:
            # Joined in slices: signal handlers run between them in every version of Python.
            while thread.is_alive():
                thread.join(1.0)

"""Numbers of things, as sentences say them."""


def worker_processes(count: int) -> str:
    """``1 worker process``, ``2 worker processes``."""
    return counted(count, "worker process", "worker processes")


def counted(count: int | None, noun: str, plural: str = "") -> str:
    """``1 event``, ``2 events``, ``an unknown number of events``; ``plural`` where an s is not enough."""
    plural = plural or f"{noun}s"
    if count is None:
        return f"an unknown number of {plural}"
    return f"{count} {noun if count == 1 else plural}"

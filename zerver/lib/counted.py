"""Numbers of things, as sentences say them."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 event``, ``2 events``; ``plural`` where an s is not enough."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"

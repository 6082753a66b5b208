"""An exception and all that hang together with it."""

from collections.abc import Iterator


def linked(error: BaseException) -> Iterator[BaseException]:
    """The exception, its causes and contexts, and the members of groups; each once, though they may form circles."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            waiting += (link.__cause__, link.__context__)
            if isinstance(link, BaseExceptionGroup):
                waiting += link.exceptions
            yield link

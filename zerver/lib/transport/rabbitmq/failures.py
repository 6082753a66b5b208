"""What pika raises, as sentences and kinds. Not all of it descends from ``AMQPError``, and much is nested."""

import re
from collections.abc import Iterator

import pika
import pika.exceptions

#: ``repr`` of a close reason inside another exception's text.
_CLOSE_REASON = re.compile(r"""ConnectionClosedByBroker: \((\d{3})\) (['"])(.*?)\2""")

_REFUSALS = (
    pika.exceptions.ProbableAuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
    pika.exceptions.AuthenticationError,
)


def describe(error: BaseException) -> str:
    """One line for people: the innermost reasons, each once."""
    return "; ".join(dict.fromkeys(_sentence(leaf) for leaf in _leaves(error)))


def is_refusal(error: BaseException) -> bool:
    """Whether the broker was there and did not let us in: a wrong password, user or vhost."""
    from_broker = pika.exceptions.ConnectionClosedByBroker
    return any(
        isinstance(leaf, _REFUSALS)
        # 403: access refused; 530: this vhost does not exist or is not for this user.
        or (isinstance(leaf, from_broker) and leaf.reply_code in (403, 530))
        or type(leaf).__name__ == "AuthenticationRefused"
        for leaf in _leaves(error)
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that others only wrap: in ``exceptions``, in ``exception``, or as the sole argument."""
    inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
    if inner is None and len(error.args) == 1 and isinstance(error.args[0], BaseException):
        inner = error.args[0]
    if isinstance(inner, BaseException):
        inner = (inner,)
    if not inner:
        yield error
        return
    for item in inner:
        yield from _leaves(item)


def _sentence(error: BaseException) -> str:
    if isinstance(error, pika.exceptions.ConnectionClosed | pika.exceptions.ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    if isinstance(error, pika.exceptions.ConnectionOpenAborted):
        return "it did not answer"
    nested = _CLOSE_REASON.search(str(error))
    if nested is not None:
        return f"{nested[1]} {nested[3]}"
    problem = getattr(error, "problem", None)
    if isinstance(problem, str):
        return problem
    return str(error).strip("'") or type(error).__name__

"""What pika raises, as sentences and kinds. Not all of it descends from ``AMQPError``, and much is nested."""

import re
import socket
import ssl
from collections.abc import Iterator

import pika
import pika.exceptions

from zerver.lib.errors import (
    AuthenticationRefused,
    BrokerFailed,
    BrokerMisnamed,
    PasswordUnreadable,
    TransportUnavailable,
)

#: ``repr`` of a close reason inside another exception's text.
_CLOSE_REASON = re.compile(r"""ConnectionClosedByBroker: \((\d{3})\) (['"])(.*?)\2""")

#: What OpenSSL makes of a peer that answers in another protocol.
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")

#: OpenSSL's numbers for a certificate that is of its authority, and not for the host, or the address, that was asked.
_OTHER_NAME = (62, 64)
#: Likewise: it is not valid yet, or not any more.
_OUT_OF_TIME = (9, 10)

_BY_BROKER = pika.exceptions.ConnectionClosedByBroker
_INTERNAL_ERROR = 541

_REFUSALS = (
    pika.exceptions.ProbableAuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
    pika.exceptions.AuthenticationError,
)


def describe(error: BaseException) -> str:
    """One line for people: the innermost reasons, each once."""
    return "; ".join(dict.fromkeys(_sentence(leaf) for leaf in _leaves(error)))


def as_error(what: str, error: BaseException) -> TransportUnavailable:
    """Why there is no connection, as our own error. ``what``: which broker, for people."""
    leaves, problem = list(_leaves(error)), describe(error)
    if any(isinstance(leaf, PasswordUnreadable) for leaf in leaves):
        return PasswordUnreadable(what, problem)
    if is_refusal(error):
        return AuthenticationRefused(what, problem)
    if all(isinstance(leaf, socket.gaierror) for leaf in leaves):
        return BrokerMisnamed(
            what, problem, "see that QUEUE_URL names the right host, and that names can be looked up"
        )
    if any(isinstance(leaf, ssl.SSLError) and leaf.reason in _NO_TLS for leaf in leaves):
        mend = "write amqp:// in QUEUE_URL, or the broker's port for TLS, 5671 as a rule"
        return BrokerMisnamed(what, f"that port speaks no TLS ({problem})", mend)
    for leaf in leaves:
        if isinstance(leaf, BrokerMisnamed):
            return leaf
        if isinstance(leaf, ssl.SSLCertVerificationError):
            return BrokerMisnamed(what, problem, _mend_of_certificate(leaf))
    if any(isinstance(leaf, _BY_BROKER) and leaf.reply_code == _INTERNAL_ERROR for leaf in leaves):
        return BrokerFailed(what, problem)
    return TransportUnavailable(what, problem)


def _mend_of_certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        return (
            "write in QUEUE_URL the host name that the broker's certificate is for, or give it a certificate for "
            "this one"
        )
    if error.verify_code in _OUT_OF_TIME:
        return "give the broker a certificate that is valid now; see that the clocks of both hosts are right"
    return (
        "let cafile in QUEUE_URL (amqps://…/?cafile=/etc/…/ca.pem) name the authority that signed the broker's "
        "certificate; without it the system's are believed"
    )


def is_refusal(error: BaseException) -> bool:
    """Whether the broker was there and did not let us in: a wrong password, user or vhost."""
    return any(
        isinstance(leaf, _REFUSALS)
        # 403: access refused; 530: this vhost does not exist or is not for this user.
        or (isinstance(leaf, _BY_BROKER) and leaf.reply_code in (403, 530))
        or isinstance(leaf, AuthenticationRefused)
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

"""Looks at a broker for the doctor, over one connection, and changes nothing there.

What is a right, and what a difference, the broker alone knows, so it is asked, in ways that cannot come to anything: a
queue that is there is declared once more, which compares; one that is not, with an argument that makes no sense, which
only tells whether we might. A refusal is a line in the broker's log, so rights are asked for only where nothing else
shows that we have them.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pika.exceptions

from zerver.lib.clock import new_message_id
from zerver.lib.errors import QueueMismatch, TransportUnavailable
from zerver.lib.registry import QueueDeclaration, left_over_names
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.admin import BrokerAdmin
from zerver.lib.transport.rabbitmq.consumer_timeouts import told_timeout
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.management_api import as_mapping
from zerver.lib.transport.rabbitmq.questions import ask_each, is_not_found
from zerver.lib.transport.rabbitmq.session import Answered, BrokerSession, open_session
from zerver.lib.transport.rabbitmq.topology import DEAD_QUEUE, arguments, declaration_error, declare_on
from zerver.lib.transport.survey import MIGRATION_PREFIX, BrokerSurvey, ListedQueue, QueueSurvey

_REFUSED = 403
_SILENT = "it does not answer; a quorum queue whose nodes have no majority does not"

Listing = Mapping[str, Mapping[str, Any]]


def survey(
    address: BrokerAddress, admin: BrokerAdmin, queues: Sequence[QueueDeclaration], timeout_seconds: float
) -> BrokerSurvey:
    """Units: timeout_seconds holds for each answer. Raises: AuthenticationRefused, TransportUnavailable."""
    listing: Listing | None = None
    alarms: Sequence[str] = ()
    timeouts: Mapping[str, float] = {}
    management_problem = ""
    with open_session(address, timeout_seconds) as session:
        try:
            listing, alarms = _ask_management(admin)
            with suppress(
                TransportUnavailable
            ):  # an API that was told to keep no statistics refuses this alone
                timeouts = admin.consumer_timeouts()
        except TransportUnavailable as error:
            management_problem = str(error)
        found = _look_at_queues(session, queues, listing or {}, timeouts)
        left_over = _look_for_left_over(session, queues)
        may_publish: bool | None = None
        if not alarms:
            # Comes last: in an alarm the broker reads nothing more from a connection that has published.
            may_publish, alarm = _try_to_publish(session)
            alarms = [alarm] if alarm else []
        return BrokerSurvey(
            address=str(address),
            version=session.greeting.version,
            alarms=tuple(alarms),
            may_publish=may_publish,
            queues=found,
            left_over=left_over,
            ours=None if listing is None else _ours(listing),
            management_problem=management_problem,
        )


def _ask_management(admin: BrokerAdmin) -> tuple[Listing | None, list[str]]:
    """The queues by name, and the alarms; None and none without a management API. Raises: TransportUnavailable."""
    listed = admin.broker_queues()
    if listed is None:
        return None, []
    return {str(queue.get("name")): queue for queue in listed}, admin.alarms() or []


def _ours(listing: Listing) -> tuple[ListedQueue, ...]:
    return tuple(
        ListedQueue(name=name, events=_whole(queue.get("messages")))
        for name, queue in sorted(listing.items())
        if name.startswith(MIGRATION_PREFIX)
        or as_mapping(queue.get("arguments")).get("x-dead-letter-routing-key") == DEAD_QUEUE
    )


# -- queues


def _look_at_queues(
    session: BrokerSession,
    queues: Sequence[QueueDeclaration],
    listing: Listing,
    timeouts: Mapping[str, float],
) -> dict[str, QueueSurvey]:
    counted = ask_each(session, [queue.name for queue in queues])
    by_name = {queue.name: queue for queue in queues}
    there = [name for name, answer in counted.items() if not isinstance(answer, BaseException)]
    missing = [name for name, answer in counted.items() if is_not_found(answer)]
    unconsumed = [name for name in there if not counted[name].method.consumer_count]
    listed_differences = {
        name: _differences(by_name[name], listing[name]) for name in there if name in listing
    }
    # What the listing shows to be as declared needs no question. Of the others: deleted by somebody since it was
    # counted, a queue would come back here, empty and as declared, which its next worker would do as well.
    doubtful = [name for name in there if listed_differences.get(name) != ""]
    declared = session.ask_each({name: partial(_declare, by_name[name]) for name in doubtful})
    configured = session.ask_each({name: partial(_declare_nonsense, name) for name in missing})
    consumed = session.ask_each({name: partial(_consume_nonsense, name) for name in unconsumed})
    found = {}
    for name, queue in by_name.items():
        told = _told(name, counted.get(name))
        listed = listing.get(name, {})
        if name in there and (standstill := _standstill(listed)):
            told = QueueSurvey(name=name, is_there=None, problem=standstill)
        elif name in there:
            told = QueueSurvey(
                name=name,
                is_there=True,
                ready=counted[name].method.message_count,
                unacked=_whole(listed.get("messages_unacknowledged")),
                consumers=counted[name].method.consumer_count,
                difference=_difference(name, declared.get(name), listed_differences.get(name)),
                may_consume=_is_allowed(consumed.get(name)),
                policy=as_mapping(listed.get("effective_policy_definition")),
                may_time_out=session.greeting.has_timeout(queue.queue_type),
                consumer_timeout_seconds=told_timeout(session.greeting, queue, listed, timeouts),
            )
        elif name in missing:
            told = QueueSurvey(name=name, is_there=False, may_configure=_is_allowed(configured.get(name)))
        found[name] = told
    return found


def _look_for_left_over(
    session: BrokerSession, queues: Sequence[QueueDeclaration]
) -> tuple[ListedQueue, ...]:
    """By their names: AMQP lists no queues."""
    names = dict.fromkeys(name for queue in queues for name in left_over_names(queue))
    answers = ask_each(session, list(names))
    return tuple(
        ListedQueue(name=name, events=answers[name].method.message_count)
        for name in names
        if name in answers and not isinstance(answers[name], BaseException)
    )


def _told(name: str, answer: Any) -> QueueSurvey:
    """Of a queue that gave no counts."""
    problem = describe(answer) if isinstance(answer, BaseException) else _SILENT
    # Only from 4.3 on: it tells of a queue to those alone who have any right to it.
    may_consume = False if getattr(answer, "reply_code", None) == _REFUSED else None
    return QueueSurvey(name=name, is_there=None, problem=problem, may_consume=may_consume)


def _standstill(listed: Mapping[str, Any]) -> str:
    """Why a quorum queue confirms nothing and hands out nothing, though it gives its counts: those are remembered by
    each node (3.10.8). Empty where a majority of its nodes is there, and where nobody tells.
    """
    members, online = listed.get("members"), listed.get("online")
    if not isinstance(members, list) or not isinstance(online, list) or 2 * len(online) > len(members):
        return ""
    away = sorted(str(node) for node in members if node not in online)
    return f"{len(away)} of the {len(members)} nodes that it stands on are away: {', '.join(away)}"


def _declare(queue: QueueDeclaration, channel: Any, answered: Answered) -> None:
    declare_on(channel, queue, answered)


def _declare_nonsense(name: str, channel: Any, answered: Answered) -> None:
    """Refused in any case: with 403 without the right to configure, and with 406 for the argument otherwise."""
    channel.queue_declare(name, durable=True, arguments={"x-max-length": "nonsense"}, callback=answered)


def _consume_nonsense(name: str, channel: Any, answered: Answered) -> None:
    """Likewise, for the right to read. A broker that took it would hand over one event at most, and have it back as the
    channel closes with the answer.
    """
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(name, lambda *_: None, arguments={"x-priority": "nonsense"}, callback=answered)


def _is_allowed(answer: Any) -> bool | None:
    """None where it was not asked, or not answered."""
    if answer is None:
        return None
    return getattr(answer, "reply_code", None) != _REFUSED


def _difference(name: str, declared: Any, listed: str | None) -> str | None:
    """The broker's word counts, as it does for workers; the listing tells more than the first difference.

    Arguments that only the listing shows are of no interest to the broker. Its type is: a broker may be told to take
    a queue of another type for the one that is declared.
    """
    if declared is None:
        return listed
    if not isinstance(declared, BaseException):
        return listed if listed and listed.startswith("type:") else ""
    if getattr(declared, "reply_code", None) == _REFUSED:
        return listed
    error = declaration_error(name, declared)
    return (listed or error.difference) if isinstance(error, QueueMismatch) else None


def _differences(queue: QueueDeclaration, listed: Mapping[str, Any]) -> str:
    """By value, all of them. Shape: ``type: broker has classic, code declares quorum; …``; "" where there are none."""
    has, wants = {**as_mapping(listed.get("arguments"))}, arguments(queue)
    for told in (has, wants):
        # Told by ``type``; newer brokers write their default into the arguments of queues that came without it.
        told.pop("x-queue-type", None)
    facts: list[tuple[str, object, object]] = [
        ("type", listed.get("type"), queue.queue_type),
        ("durable", listed.get("durable"), True),
    ]
    facts += [(name, has.get(name), wants.get(name)) for name in sorted({*has, *wants})]
    return "; ".join(
        f"{name}: broker has {_shown(theirs)}, code declares {_shown(ours)}"
        for name, theirs, ours in facts
        if theirs != ours
    )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value) or "''"


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# -- publishing


def _try_to_publish(session: BrokerSession) -> tuple[bool | None, str]:
    """Publish what no queue takes, and what the broker therefore drops. Shape: may we; what it is short of, or "".

    That it is in an alarm it tells only who has published. A second question shows that it goes on reading: the
    confirm may overtake the news of the alarm.
    """
    refusals: list[BaseException] = []
    answers: list[Any] = []
    channel = session.channel()
    channel.add_on_close_callback(lambda _, reason: refusals.append(reason))

    def wait_for_answers(count: int) -> None:
        session.wait(
            lambda: len(answers) >= count or bool(refusals) or bool(session.alarm), "an answer to a publish"
        )

    with suppress(TransportUnavailable, pika.exceptions.ChannelWrongStateError):
        channel.confirm_delivery(answers.append)
        channel.basic_publish("", f"zerver-check-{new_message_id()}", b"")
        wait_for_answers(1)
        if not refusals and not session.alarm:
            channel.basic_qos(prefetch_count=1, callback=answers.append)
            wait_for_answers(2)
    if refusals:
        return (False, "") if getattr(refusals[0], "reply_code", None) == _REFUSED else (None, "")
    return (True if answers else None), session.alarm

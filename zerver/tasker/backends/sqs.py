"""Knocks as messages on Amazon's SQS, which ``queue_tasks process --loop`` listens to.

SQS holds a message back for a quarter of an hour at most, keeps it for two weeks at most, and takes none back. So what
is due later stays in the table alone, and the sweeper promotes it when it is near; a message is a knock and no more,
and is deleted as soon as it has been heard: what is due is in the table.
"""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.db import transaction

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.errors import InvalidSetting
from zerver.tasker import signals
from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.values import Knock

#: Source: Amazon SQS, "Amazon SQS message quotas": delay, entries of a batch.
_MOST_DELAY_SECONDS: Final = 900
_BATCH: Final = 10
#: SQS would wait for 20; but who is told to stop is not to wait so long.
_LONGEST_POLL_SECONDS: Final = 5
#: How soon it listens again where SQS cannot be reached.
_AWAY_SECONDS: Final = 5.0
_ERRORS: Final = (BotoCoreError, ClientError)

#: A queue, and for how long SQS is to hold the message back.
Word = tuple[str, int]


class SqsBackend(TaskBackend):
    """``OPTIONS``: ``URLS``, which maps each of its queues to the URL of one of SQS's (a standard one), and
    ``CLIENT``: what boto3's client is to be made with (``region_name``, ``endpoint_url`` and so on).
    """

    options: ClassVar[frozenset[str]] = frozenset({"URLS", "CLIENT"})
    #: Long before it is due, and in time for a sweeper that was away.
    promotes_within_seconds: ClassVar[float] = 120.0

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self._urls = _urls(alias, options.get("URLS"))
        # One that is stuck must hold up nobody for longer than a publish may take.
        seconds = get_settings().publish_timeout_seconds
        config = Config(
            connect_timeout=seconds,
            read_timeout=_LONGEST_POLL_SECONDS + seconds,
            retries={"total_max_attempts": 1},
        )
        try:
            # Clients are made for threads to share.
            self._client = boto3.client("sqs", config=config, **options.get("CLIENT", {}))
        except (*_ERRORS, TypeError, ValueError) as error:
            raise InvalidSetting(
                f"QUEUE_TASKS[{alias!r}]", f"CLIENT cannot be used: {error}", "see boto3.client"
            ) from error

    def knock(self, knocks: Sequence[Knock]) -> None:
        now_ms = clock.now_ms()
        near: list[Word] = []
        for knock in knocks:
            # Rounded up: a message that comes too early finds nothing.
            delay_seconds = max(0, math.ceil(knock.seconds_left(now_ms)))
            if delay_seconds <= _MOST_DELAY_SECONDS:
                near.append((knock.queue, delay_seconds))
        for queue in {queue for queue, _ in near}:
            self._url_of(queue)
        transaction.on_commit(partial(self._send, near), using=get_settings().database, robust=True)

    def wake(self, queue: str, count: int) -> None:
        # Who listens runs all that is due.
        self._send([(queue, 0)] * min(count, _BATCH))

    def wait(self, queues: Sequence[str], seconds: float, stopping: threading.Event) -> None:
        """By long polling. Of several queues the last is listened to, and the others are looked at before."""
        heard = [queue for queue in queues if queue in self._urls]
        if not heard:
            super().wait(queues, seconds, stopping)
            return
        for queue in heard[:-1]:
            if self._hear(queue, 0, stopping):
                return
        # Others that are looked at in the table alone are not to wait for this one.
        alone = len(queues) == 1
        self._hear(heard[-1], min(int(seconds), _LONGEST_POLL_SECONDS) if alone else 1, stopping)

    def _url_of(self, queue: str) -> str:
        """Raises: InvalidSetting."""
        try:
            return self._urls[queue]
        except KeyError:
            place = f"QUEUE_TASKS[{self.alias!r}]"
            raise InvalidSetting(
                place, f"URLS has none for the queue {queue!r}", "give it one of SQS's"
            ) from None

    def _hear(self, queue: str, seconds: int, stopping: threading.Event) -> bool:
        url = self._url_of(queue)
        try:
            answer = self._client.receive_message(
                QueueUrl=url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=seconds
            )
            heard = answer.get("Messages", [])
            if heard:
                entries = [
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(heard)
                ]
                self._client.delete_message_batch(QueueUrl=url, Entries=entries)
        except _ERRORS as error:
            self._tell(queue, f"{type(error).__name__}: {error}")
            stopping.wait(min(_AWAY_SECONDS, 1.0 + seconds))
            return False
        return bool(heard)

    def _send(self, words: Sequence[Word]) -> None:
        """Whatever goes wrong: the tasks are in the table."""
        for queue, batch in _batches(words):
            entries = [
                {"Id": str(number), "MessageBody": "{}", "DelaySeconds": delay_seconds}
                for number, delay_seconds in enumerate(batch)
            ]
            try:
                answer = self._client.send_message_batch(QueueUrl=self._url_of(queue), Entries=entries)
            except _ERRORS as error:
                self._tell(queue, f"{type(error).__name__}: {error}")
                return
            if refused := answer.get("Failed"):
                self._tell(queue, f"{refused[0].get('Code')}: {refused[0].get('Message')}")

    def _tell(self, queue: str, problem: str) -> None:
        signals.knock_failed.send_robust(sender=None, queue=queue, backend=self.alias, problem=problem)


def _batches(words: Sequence[Word]) -> Iterator[tuple[str, list[int]]]:
    of_queue: dict[str, list[int]] = {}
    for queue, delay_seconds in words:
        of_queue.setdefault(queue, []).append(delay_seconds)
    for queue, delays in of_queue.items():
        for start in range(0, len(delays), _BATCH):
            yield queue, delays[start : start + _BATCH]


def _urls(alias: str, given: Any) -> Mapping[str, str]:
    if (
        not isinstance(given, Mapping)
        or not given
        or not all(isinstance(url, str) and url.startswith("http") for url in given.values())
    ):
        raise InvalidSetting(
            f"QUEUE_TASKS[{alias!r}]",
            "OPTIONS has no URLS that can be used",
            'map each of its queues to an URL of SQS: {"tasks": "https://sqs.eu-central-1.amazonaws.com/…"}',
        )
    return dict(given)

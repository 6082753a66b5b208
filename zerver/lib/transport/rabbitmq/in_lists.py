"""pika's connection and channel, with deliveries that come in lists: what one read of the socket brought.

They are taken from pika's buffer before it looks there. Everything else goes pika's own way, frame by frame: each other
method, what is for another consumer, a message that another frame comes between, whatever is malformed. So does all,
should a release of pika no longer be what is known of it here.
"""

import time
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any

import pika
import pika.channel

from zerver.lib import signals
from zerver.lib.transport.rabbitmq.deliveries import Delivered, read_deliveries
from zerver.lib.transport.rabbitmq.known_pika import PlainTransport, changed_in_pika

#: What is overridden is private to pika, so the stubs do not know it.
_SelectConnection: Any = pika.SelectConnection
_Channel: Any = pika.channel.Channel

#: Read at once of the socket where deliveries come in lists: pika's own is 4096, and costs an event as much again. From
#: 128 KiB on glibc would ask the system for the memory of each read.
READ_BYTES = 120 << 10
#: After a read of so many frames, 100 deliveries, the thread lets handlers have the interpreter for a moment, and what
#: comes meanwhile comes in one read. Without it the two take the interpreter from each other for every few events, and
#: a worker handled a tenth less. What is rarer comes in smaller reads, and waits for nothing.
MANY_FRAMES = 300
REST_SECONDS = 0.0005

OnDeliveries = Callable[[list[Delivered]], object]


class ListChannel(_Channel):  # type: ignore[misc]  # as above
    """A channel of a ``ListConnection``."""

    _on_deliveries: OnDeliveries | None = None

    def consume_in_lists(
        self,
        queue: str,
        on_deliveries: OnDeliveries,
        *,
        arguments: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> str:
        """``basic_consume``, but for a list of messages at a time. Shape: the consumer's tag.

        A list is of one read at the most, of this channel alone, in the order of the wire, and told before anything
        that came after it. A channel has one ``on_deliveries`` for all of its consumers: the last.
        """
        self._on_deliveries = on_deliveries
        tag = self.basic_consume(queue, self._on_one, arguments=arguments, callback=callback)
        self.connection.read_in_lists()
        return str(tag)

    def hand_over(self, deliveries: list[Delivered]) -> None:
        """As pika does it: what comes while the channel is being closed is dropped."""
        if self._on_deliveries is not None and self.is_open:
            self._on_deliveries(deliveries)

    def wanted_tags(self) -> Mapping[bytes, str]:
        """Consumers in lists, by their encoded tags; none while pika is in the middle of a message."""
        assembler = self._content_assembler
        if assembler._method_frame is not None or assembler._header_frame is not None or not self.is_open:
            return {}
        return {tag.encode(): tag for tag, consumer in self._consumers.items() if consumer == self._on_one}

    def _on_one(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        """What came pika's own way."""
        self.hand_over(
            [Delivered(method.consumer_tag, method.delivery_tag, method.redelivered, properties, body)]
        )


class ListConnection(_SelectConnection):  # type: ignore[misc]  # as above
    """Its channels must be ``ListChannel``."""

    _is_in_lists = False
    #: One read a turn of the loop; so it may rest after one.
    _reads_once = False

    @cached_property
    def is_known(self) -> bool:
        """Whether there is a way past pika: its present release is as it is known here. To look takes 0.5 ms."""
        changed = changed_in_pika()
        if changed:
            _tell_once(", ".join(changed))
        return not changed

    def read_in_lists(self) -> None:
        """From the next read on."""
        if self._is_in_lists or not self.is_known:
            return
        self._is_in_lists = True
        # Of this connection's own transport; the class is everybody's.
        self._transport._MAX_RECV_BYTES = READ_BYTES
        self.read_once_a_turn()

    def read_once_a_turn(self) -> None:
        """To read until nothing is left is a system call and an exception more. TLS must, which may hold what the
        socket no longer does.
        """
        if type(self._transport) is PlainTransport:
            self._transport._MAX_CONSUME_BYTES = 1
            self._reads_once = True

    def _on_data_available(self, data_in: bytes) -> None:
        if not self._is_in_lists:
            super()._on_data_available(data_in)
            return
        frames_before = self.frames_received
        self._frame_buffer += data_in
        self._read_on()
        if self._reads_once and self.frames_received - frames_before >= MANY_FRAMES:
            time.sleep(REST_SECONDS)

    def _read_on(self) -> None:
        """As far as there are whole frames."""
        while self._frame_buffer and not self._take_deliveries():
            consumed, frame = self._read_frame()
            if frame is None:
                return
            self._trim_frame_buffer(consumed)
            self._process_frame(frame)

    def _take_deliveries(self) -> bool:
        """Whether what comes next is more of a delivery, and pika shall not look before it is there."""
        reading = read_deliveries(self._frame_buffer, self._wanted_tags)
        if reading.frames:
            # First, as pika does it: whatever is raised below, these bytes are not read again.
            self._trim_frame_buffer(reading.consumed)
            self.frames_received += reading.frames
            for number, deliveries in reading.lists.items():
                self._channels[number].hand_over(deliveries)
        return reading.is_waiting

    def _wanted_tags(self, channel_number: int) -> Mapping[bytes, str]:
        channel = self._channels.get(channel_number)
        return {} if channel is None else channel.wanted_tags()


@lru_cache(maxsize=1)
def _tell_once(changed: str) -> None:
    """In a process."""
    signals.fast_lane_slowed.send_robust(
        sender=ListConnection,
        problem=f"pika {pika.__version__} is not as it was known ({changed}); use one that is, or a newer zerver",
    )

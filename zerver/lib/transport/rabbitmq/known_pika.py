"""What is relied on of pika that is private to it, and whether its present release still has it so."""

import inspect
import pkgutil
from typing import Any


def _found(name: str) -> Any:
    """Raises nothing: a release that lacks it is one that has changed, which is no reason not to start."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return None


#: pika's transport without TLS; None where it has no such.
PlainTransport: Any = _found("pika.adapters.utils.io_services_utils:_AsyncPlaintextTransport")

#: What is relied on: methods, their parameters, and what their bodies use; of the first two that is all, for their work
#: is done by ``ListConnection``.
_KNOWN = (
    (
        "pika.connection:Connection._on_data_available",
        "self data_in",
        "_frame_buffer _read_frame _trim_frame_buffer _process_frame",
    ),
    ("pika.connection:Connection._trim_frame_buffer", "self byte_count", "_frame_buffer bytes_received"),
    ("pika.connection:Connection._read_frame", "self", "_frame_buffer"),
    ("pika.connection:Connection._process_frame", "self frame_value", "frames_received"),
    ("pika.connection:Connection._deliver_frame_to_channel", "self value", "_channels _handle_content_frame"),
    (
        "pika.channel:Channel._handle_content_frame",
        "self frame_value",
        "_content_assembler process _on_deliver",
    ),
    ("pika.channel:Channel._on_deliver", "self method_frame header_frame body", "_consumers consumer_tag"),
    ("pika.channel:ContentFrameAssembler.process", "self frame_value", "_method_frame _header_frame"),
    ("pika.channel:ContentFrameAssembler._reset", "self", "_method_frame _header_frame"),
    ("pika.adapters.base_connection:BaseConnection._adapter_emit_data", "self data", "_transport write"),
    ("pika.adapters.base_connection:BaseConnection._proto_connection_made", "self transport", "_transport"),
    ("pika.channel:Channel.basic_cancel", "self consumer_tag callback", "_cancelled"),
    (
        "pika.adapters.utils.io_services_utils:_AsyncTransportBase._consume",
        "self",
        "_MAX_RECV_BYTES _MAX_CONSUME_BYTES",
    ),
    ("pika.adapters.utils.io_services_utils:_AsyncTransportBase._produce", "self", "_tx_buffers _sock"),
    (
        "pika.adapters.utils.io_services_utils:_AsyncPlaintextTransport.write",
        "self data",
        "_state _STATE_ACTIVE",
    ),
)
_REPLACED = 2


def changed_in_pika() -> list[str]:
    """What is not as it is known here. Shape: ``Channel._on_deliver`` and the like; empty when all is well."""
    return [
        name.partition(":")[2]
        for index, (name, parameters, used) in enumerate(_KNOWN)
        if not _is_as_known(name, parameters.split(), set(used.split()), is_all=index < _REPLACED)
    ]


def _is_as_known(name: str, parameters: list[str], used: set[str], *, is_all: bool) -> bool:
    method = _found(name)
    try:
        found = set(method.__code__.co_names)
        known = list(inspect.signature(method).parameters) == parameters
    except (AttributeError, TypeError, ValueError):
        return False
    return known and (found == used if is_all else found >= used)

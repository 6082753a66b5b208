"""A pika whose private parts have changed is found out, and is no reason not to start."""

import runpy

import pytest

from zerver.lib.transport.rabbitmq import in_lists, known_pika, publishing
from zerver.lib.transport.rabbitmq.known_pika import changed_in_pika


def test_the_present_pika_is_known() -> None:
    assert changed_in_pika() == []


@pytest.mark.parametrize(
    "name",
    ["channel.Channel._on_deliver", "channel.ContentFrameAssembler", "connection.Connection._read_frame"],
)
def test_what_has_gone_from_pika_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(f"pika.{name}")
    assert any(name.partition(".")[2] in changed for changed in changed_in_pika())


def test_what_has_gone_from_pika_lets_all_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("pika.adapters.utils.io_services_utils._AsyncPlaintextTransport")
    assert "_AsyncPlaintextTransport.write" in changed_in_pika()
    # Beside the modules that are there: whoever has those keeps them.
    anew = [runpy.run_path(str(module.__file__)) for module in (known_pika, in_lists, publishing)]
    assert anew[0]["PlainTransport"] is None

"""A pika whose private parts have changed is found out, and is no reason not to start."""

import runpy
from types import ModuleType

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


@pytest.mark.parametrize("module", [known_pika, in_lists, publishing], ids=lambda module: module.__name__)
def test_what_has_gone_from_pika_lets_modules_be_imported(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    monkeypatch.delattr("pika.adapters.utils.io_services_utils._AsyncPlaintextTransport")
    # Beside the module that is there: whoever has that keeps it.
    anew = runpy.run_path(str(module.__file__))
    assert "_AsyncPlaintextTransport.write" in anew["changed_in_pika"]()

"""Sealed bodies: which key seals, which opens, and what is said where none does."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from pprint import pformat
from traceback import walk_tb
from types import FrameType

import pytest
from cryptography.fernet import Fernet
from pytest_django import Settings

from zerver.checks import check_settings
from zerver.lib import vault
from zerver.lib.conf import get_settings
from zerver.lib.errors import BodyUnreadable, InvalidSetting
from zerver.lib.vault import PLAIN, Vault

BODY = b'{"card":"4111"}'


def key() -> str:
    return Fernet.generate_key().decode()


def test_without_keys_a_body_is_kept_as_it_is() -> None:
    none = Vault([])
    assert (none.seal(BODY), none.newest, none.names) == (BODY, None, ())
    assert none.open(BODY, None) == BODY
    assert none.open_text(none.seal_text("ü"), None) == "ü"


@pytest.mark.parametrize("body", [b"", BODY, b"\x00\xff" * 1000, b"gAAAAA looks like a token"])
def test_a_sealed_body_shows_nothing_and_opens_as_it_was(body: bytes) -> None:
    keys = Vault([key()])
    sealed = keys.seal(body)
    assert body not in sealed or not body
    assert keys.open(sealed, keys.newest) == body


def test_a_body_from_before_the_first_key_is_opened_whatever_it_looks_like() -> None:
    keys = Vault([key()])
    lookalike = keys.seal(BODY)
    assert keys.open(lookalike, None) == lookalike


def test_the_newest_key_seals_and_the_older_ones_open() -> None:
    old, new = key(), key()
    before, after = Vault([old]), Vault([new, old])
    assert after.open(before.seal(BODY), before.newest) == BODY
    assert (after.newest, after.names) == (Vault([new]).newest, (Vault([new]).newest, before.newest))
    assert after.seal(BODY) != after.seal(BODY)


def test_plain_in_the_place_of_the_newest_key_seals_no_more_and_opens_what_is_sealed() -> None:
    old = key()
    before, after = Vault([old]), Vault([PLAIN, old])
    assert (after.seal(BODY), after.newest) == (BODY, None)
    assert after.open(before.seal(BODY), before.newest) == BODY


def test_texts_are_sealed_into_text() -> None:
    keys = Vault([key()])
    sealed = keys.seal_text("Fehler: größer")
    assert sealed.isascii()
    assert keys.open_text(sealed, keys.newest) == "Fehler: größer"


def test_a_body_whose_key_is_gone_is_told_by_the_keys_name_and_the_setting() -> None:
    lost = Vault([key()])
    with pytest.raises(BodyUnreadable, match=f"key {lost.newest}, which QUEUE_BODY_KEYS does not hold; put"):
        Vault([key()]).open(lost.seal(BODY), lost.newest)


def test_a_body_that_was_changed_is_not_opened() -> None:
    keys = Vault([key()])
    sealed = keys.seal(BODY)
    for changed in (sealed[:-4] + b"AAA=", sealed[:40], b"", b"\xff"):
        with pytest.raises(BodyUnreadable, match="it was changed where it is kept"):
            keys.open(changed, keys.newest)


def test_a_keys_name_gives_nothing_of_it_away() -> None:
    secret = key()
    name = Vault([secret]).newest
    assert name == Vault([secret]).newest
    assert name is not None
    assert name not in secret
    assert len(name) == 12


@pytest.mark.parametrize(
    "bad",
    ["secret", "", "c2VjcmV0", "é" * 44, key()[:-1], key() + key(), PLAIN],
    ids=["a word", "nothing", "too short", "not ASCII", "a character too few", "two at once", "plain"],
)
def test_what_is_no_key_is_told_by_its_place_and_not_shown(bad: str) -> None:
    with pytest.raises(
        InvalidSetting, match="key number 2 is no Fernet key; give 32 random bytes"
    ) as refused:
        Vault([key(), bad])
    assert bad == "" or bad == PLAIN or bad not in str(refused.value)


# -- settings


def test_keys_come_from_a_list_or_from_text_with_commas(settings: Settings) -> None:
    first, second = key(), key()
    settings.QUEUE_BODY_KEYS = [first, second]
    names = vault.current().names
    settings.QUEUE_BODY_KEYS = f" {first},\n{second},"
    assert vault.current().names == names == Vault([first, second]).names


def test_keys_that_cannot_be_used_are_refused_at_start_and_not_shown(settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = "topsecret"
    [found] = check_settings()
    assert (found.id, found.msg) == ("zerver.E001", "QUEUE_BODY_KEYS: key number 1 is no Fernet key")
    settings.QUEUE_BODY_KEYS = {"topsecret": 1}
    [found] = check_settings()
    assert found.msg == "QUEUE_BODY_KEYS: a value of type dict cannot be used"
    assert "topsecret" not in f"{found.hint}"


def test_keys_in_two_places_are_refused(settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = [key()]
    settings.QUEUE_BODY_KEYS_FILE = "/run/secrets/body-keys"
    with pytest.raises(
        InvalidSetting, match="QUEUE_BODY_KEYS_FILE: is set, and so is QUEUE_BODY_KEYS; set one"
    ):
        vault.current()


def test_a_file_of_keys_that_cannot_be_read_is_named(settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS_FILE = "/nonesuch/body-keys"
    [found] = check_settings()
    assert found.msg == "QUEUE_BODY_KEYS_FILE: /nonesuch/body-keys cannot be read: No such file or directory"


def test_a_file_of_keys_that_is_empty_is_refused(settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS_FILE = Path(os.devnull)
    with pytest.raises(InvalidSetting, match="QUEUE_BODY_KEYS_FILE: /dev/null is empty; write a key into it"):
        vault.current()


def test_keys_without_the_package_are_refused_with_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    settings.QUEUE_BODY_KEYS = [key()]
    [found] = check_settings()
    assert found.hint == "install zerver[encryption]"
    assert "QUEUE_BODY_KEYS" in found.msg


@pytest.mark.parametrize("source", ["list", "text", "nonsense", "file", "bytes", "without the package"])
def test_the_frames_of_what_refuses_keys_hold_none_of_them(
    source: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error pages and trackers show the local variables of each."""
    secret, path = key(), tmp_path / "body-keys"
    match source:
        case "list":
            settings.QUEUE_BODY_KEYS = [secret, secret[:-2]]
        case "text":
            settings.QUEUE_BODY_KEYS = f"{secret},{secret[:-2]}"
        case "nonsense":
            settings.QUEUE_BODY_KEYS = {secret: 1}
        case "without the package":
            monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
            settings.QUEUE_BODY_KEYS = [secret]
        case _:
            path.write_bytes(f"{secret} {secret[:-2]}".encode() + b"\xff" * (source == "bytes"))
            settings.QUEUE_BODY_KEYS_FILE = path
    with pytest.raises(InvalidSetting) as refused:
        vault.current()
    [_, *frames] = frames_of(refused.value)  # the first is this test's
    shown = pformat([frame.f_locals for frame in frames], width=1000)
    assert "InvalidSetting(" in shown
    assert secret[:-2] not in shown
    assert repr(base64.urlsafe_b64decode(secret))[2:-1] not in shown


def frames_of(error: BaseException | None) -> Iterator[FrameType]:
    """Of the error and of whatever was caught on its way."""
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            yield frame
        error = error.__cause__ or error.__context__


def test_what_may_hold_a_secret_is_not_in_the_settings_repr(settings: Settings) -> None:
    settings.QUEUE_URL = "amqp://shop:topsecret@broker/"
    settings.QUEUE_MANAGEMENT_URL = "http://shop:topsecret@broker:15672"
    settings.QUEUE_BODY_KEYS = ["topsecret"]
    assert "topsecret" not in repr(get_settings())

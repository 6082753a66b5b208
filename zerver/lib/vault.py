"""Bodies at rest: sealed with the newest of the keys in ``QUEUE_BODY_KEYS``, opened with whichever of them it was.

The one room that knows of keys. A row says what it is sealed with by the key's name, a digest that gives nothing of
the key away; a row that names none holds its body as it is, whatever its bytes look like. So rows from before the
first key stay readable, and a row whose key is gone is known as such without being touched.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from zerver.lib.conf import QueueSettings, get_settings
from zerver.lib.errors import BodyUnreadable, InvalidSetting

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

#: In the place of the newest key: what is written from now on is not sealed, and the keys after it open what is.
PLAIN: Final = "plain"

_KEYS: Final = "QUEUE_BODY_KEYS"
_KEYS_FILE: Final = "QUEUE_BODY_KEYS_FILE"
_KEY_BYTES: Final = 32
#: Units: hexadecimal digits.
_NAME_LENGTH: Final = 12


class Vault:
    """The keys of this process. Without any it seals nothing, and everything costs one look at an empty list."""

    __slots__ = ("_fernets", "newest", "setting")

    def __init__(self, keys: Sequence[str], setting: str = _KEYS) -> None:
        """``keys``: Fernet keys, newest first; ``PLAIN`` may stand first. ``setting``: where they come from.

        Raises: InvalidSetting, which tells a key by its place.
        """
        self.setting = setting
        is_plain = list(keys[:1]) == [PLAIN]
        raw = {
            number: _raw_key(key, number, setting)
            for number, key in enumerate(keys, start=1)
            if not (is_plain and number == 1)
        }
        self._fernets = {_name_of(key): _fernet(key, setting) for key in raw.values()}
        #: Name of the key that seals what is written now; None: it is kept as it is.
        self.newest: str | None = None if is_plain else next(iter(self._fernets), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the keys that can open something, newest first."""
        return tuple(self._fernets)

    @property
    def lack(self) -> str:
        """As a sentence goes on of a key that is not among them."""
        return f"which {self.setting} does not hold"

    def seal(self, body: bytes) -> bytes:
        """As a row keeps it that names ``newest``: a Fernet token, a third larger; or the body itself."""
        return body if self.newest is None else self._fernets[self.newest].encrypt(body)

    def open(self, kept: bytes, sealed_with: str | None) -> bytes:
        """The body as it was published. Raises: BodyUnreadable; what is kept stays as it is."""
        if sealed_with is None:
            return kept
        try:
            fernet = self._fernets[sealed_with]
        except KeyError:
            raise BodyUnreadable(
                f"sealed with key {sealed_with}, {self.lack}",
                f"put that key back into {self.setting}, at its end, and restart",
            ) from None
        # An optional driver, which whoever has a key has.
        from cryptography.fernet import InvalidToken

        try:
            return fernet.decrypt(kept)
        except InvalidToken:
            # Its cause says nothing at all, on purpose.
            raise BodyUnreadable(
                f"sealed with key {sealed_with}, which does not open it: it was changed where it is kept",
                "restore it from a copy of the database, or publish the event anew",
            ) from None

    def seal_text(self, text: str) -> str:
        """As ``seal``, for columns of text."""
        return text if self.newest is None else self.seal(text.encode()).decode("ascii")

    def open_text(self, kept: str, sealed_with: str | None) -> str:
        """As ``open``. Raises: BodyUnreadable."""
        return kept if sealed_with is None else self.open(kept.encode(), sealed_with).decode()


def current() -> Vault:
    """With the keys of this process's settings. Raises: InvalidSetting."""
    return vault_of(get_settings())


def vault_of(settings: QueueSettings) -> Vault:
    """Raises: InvalidSetting, which tells a key by its place."""
    if settings.body_keys_file is not None and settings.body_keys:
        raise InvalidSetting(_KEYS_FILE, f"is set, and so is {_KEYS}", "set one of the two")
    try:
        return _vault(settings.body_keys, settings.body_keys_file)
    except InvalidSetting as error:
        # Raised anew: error pages and trackers show what every frame holds, and the frames down there hold keys.
        told = replace(error)
    raise told


@lru_cache(maxsize=1)
def _vault(keys: tuple[str, ...], path: Path | None) -> Vault:
    """A file is read once in the life of a process, so that all its threads agree."""
    return Vault(keys) if path is None else Vault(_keys_in(path), _KEYS_FILE)


def _keys_in(path: Path) -> list[str]:
    try:
        keys = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise InvalidSetting(
            _KEYS_FILE, f"{path} cannot be read: {why}", "let it hold one key a line, newest first"
        ) from None
    if not keys:
        # Were it taken for no keys at all, bodies would be kept unsealed from now on, and nobody would know.
        raise InvalidSetting(_KEYS_FILE, f"{path} is empty", f"write a key into it, or {PLAIN}")
    return keys


def _raw_key(key: str, number: int, setting: str) -> bytes:
    try:
        raw = base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise InvalidSetting(
            setting,
            f"key number {number} is no Fernet key",
            f"give {_KEY_BYTES} random bytes in URL-safe base64, as Fernet.generate_key() makes them; "
            f"{PLAIN!r} may stand first",
        )
    return raw


def _name_of(raw_key: bytes) -> str:
    """Of 256 random bits, so nobody can guess back."""
    return hashlib.sha256(b"zerver body key\0" + raw_key).hexdigest()[:_NAME_LENGTH]


def _fernet(raw_key: bytes, setting: str) -> "Fernet":
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise InvalidSetting(
            setting,
            f"asks for sealed bodies, and the package cryptography cannot be imported ({error})",
            "install zerver[encryption]",
        ) from error
    return Fernet(base64.urlsafe_b64encode(raw_key))

"""A text in the operator's own editor."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.management.base import CommandError


class Draft:
    """A file that the operator writes in, as often as it takes. Made by ``drafting``."""

    def __init__(self, path: Path, original: bytes) -> None:
        self.path = path
        self._original = original.strip()

    def edit(self) -> bytes | None:
        """What the operator made of it, in $VISUAL, else $EDITOR, else vi; None when it is as it was, or empty.
        Standard input is a terminal.

        Raises: CommandError when the editor cannot be run, or ends with an error.
        """
        command = _editor()
        try:
            # Where standard output goes elsewhere (--json > file), it draws on the terminal that it reads from.
            screen = None if sys.stdout is not None and sys.stdout.isatty() else sys.stdin
            code = subprocess.run([*command, str(self.path)], stdout=screen, check=False).returncode
        except OSError as error:
            raise CommandError(
                f"the editor {command[0]!r} cannot be run ({error.strerror}); set EDITOR"
            ) from error
        if code:
            raise CommandError(f"the editor ended with {code}; nothing was done")
        return self.changed()

    def changed(self) -> bytes | None:
        """As ``edit``, without the editor."""
        try:
            text = self.path.read_bytes()
        except OSError:
            return None
        return text if text.strip() not in (b"", self._original) else None


@contextmanager
def drafting(text: str, *, suffix: str, say: Callable[[str], None]) -> Iterator[Draft]:
    """A draft that begins as this text, readable by its owner alone, and gone when all went well.

    Where it did not, what the operator wrote is kept, and ``say`` tells where.
    """
    directory = Path(tempfile.mkdtemp(prefix="zerver-edit-"))
    draft = Draft(directory / f"event{suffix}", text.encode())
    try:
        draft.path.write_bytes(text.encode())
        yield draft
    except BaseException:
        if draft.changed() is None:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"what you wrote is kept in {draft.path}")
        raise
    else:
        shutil.rmtree(directory, ignore_errors=True)


def _editor() -> list[str]:
    name = "VISUAL" if os.environ.get("VISUAL") else "EDITOR"
    text = os.environ.get(name) or "vi"
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"{name} is no command: {text!r} ({error})") from error
    if not command:
        raise CommandError(f"{name} is no command: {text!r}")
    return command

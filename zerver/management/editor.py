"""A text in the operator's own editor."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from django.core.management.base import CommandError


def edit(text: str, *, suffix: str) -> str:
    """What the operator made of it, in $VISUAL, else $EDITOR, else vi.

    The file is readable by its owner alone, and gone afterwards.
    Raises: CommandError when the editor cannot be run, or ends with an error.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="zerver-edit-") as directory:
        path = Path(directory) / f"event{suffix}"
        path.write_text(text)
        try:
            code = subprocess.run([*command, str(path)], check=False).returncode
        except OSError as error:
            raise CommandError(
                f"the editor {command[0]!r} cannot be run ({error.strerror}); set EDITOR"
            ) from error
        if code:
            raise CommandError(f"the editor ended with {code}; nothing was done")
        return path.read_text()

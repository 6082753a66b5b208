"""Modules of one name in all installed apps, imported as Django's admin imports ``admin``."""

import importlib
import traceback
from pathlib import Path
from typing import Final

from django.apps import apps
from django.utils.module_loading import module_has_submodule

import zerver
from zerver.lib.printable import one_line
from zerver.lib.registry import queues

#: Where this package's own modules lie.
_OURS: Final = str(Path(zerver.__file__).parent)


def import_all(name: str) -> None:
    """A module that fails to import is remembered with the reason and the others are read all the same: one team's
    mistake must not stop the others' queues. ``manage.py check`` and every command that meets it name it.
    """
    for app in apps.get_app_configs():
        # An app that is a single module, not a package, has no modules of its own.
        if not module_has_submodule(app.module, name):
            continue
        module = f"{app.name}.{name}"
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module's author did: it is told, not raised
            queues.module_failed(module, _why(error))


def _why(error: Exception) -> str:
    """In one line, with the place. Shape: ``KeyError: 'SHOP', /srv/shop/queue_processors.py:3``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    # What a decorator of ours refuses stands where it is written, and not where it is refused.
    last = next((each for each in reversed(frames) if not each.filename.startswith((_OURS, "<"))), frames[-1])
    return f"{type(error).__name__}: {one_line(error)}, {last.filename}:{last.lineno}"

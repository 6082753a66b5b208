"""Notices that the project's code has changed."""

import logging
import sysconfig
import threading
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import watchfiles
from django.apps import apps
from django.conf import settings

#: watchfiles looks at the stop event so often.
_LOOK_UP_MS = 500


def project_directories() -> list[Path]:
    """Where the project's own code lives: its apps and its settings, without what is installed beside Python.

    Shape: no directory within another one.
    """
    installed = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    found = [Path(app.path).resolve() for app in apps.get_app_configs()]
    spec = find_spec(settings.SETTINGS_MODULE) if settings.SETTINGS_MODULE else None
    if spec is not None and spec.origin:
        found.append(Path(spec.origin).resolve().parent)
    return _outermost(path for path in found if not any(path.is_relative_to(root) for root in installed))


def _outermost(paths: Iterable[Path]) -> list[Path]:
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(outer) for outer in kept):
            kept.append(path)
    return kept


class Watcher:
    """Calls ``on_change`` with a few words on what has changed, from a thread of its own, until stopped."""

    def __init__(
        self, directories: Iterable[Path], on_change: Callable[[str], None], on_trouble: Callable[[str], None]
    ) -> None:
        self._directories = list(directories)
        self._on_change = on_change
        self._on_trouble = on_trouble
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> "Watcher":
        # It counts every change at INFO; what there is to say of one is said by ``on_change``.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for changes in watchfiles.watch(
                *self._directories,
                watch_filter=watchfiles.PythonFilter(),
                stop_event=self._stopping,
                rust_timeout=_LOOK_UP_MS,
                yield_on_timeout=False,
                ignore_permission_denied=True,
            ):
                self._on_change(describe(sorted(Path(path) for _, path in changes)))
        except (OSError, RuntimeError) as error:
            # The system's limit on watches, most of the time; everything else goes on.
            self._on_trouble(f"changes are no longer noticed ({error}): stop and start by hand")


def describe(paths: list[Path]) -> str:
    """Shape: ``views.py``, or ``views.py and 3 more files``."""
    if len(paths) == 1:
        return paths[0].name
    return f"{paths[0].name} and {len(paths) - 1} more file{'s' if len(paths) > 2 else ''}"

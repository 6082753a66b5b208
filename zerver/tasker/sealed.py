"""What of a task is sealed, for those who change keys."""

from typing import Final

from django.db.models import Q

from zerver.lib.resealing import Kind, Store
from zerver.tasker.models import Task

#: Each of these changes with every write of a result, an error or a traceback.
_GUARDS: Final = ("claim", "knocks", "state")

#: By two keys, for they are written by two processes, one of which may not have the newer yet.
STORES: Final = (
    Store(kind=Kind.TASK, model=Task, blobs=("payload",)),
    Store(
        kind=Kind.RESULT,
        model=Task,
        key="result_sealed_with",
        texts=("result", "error", "traceback"),
        where=Q(result__isnull=False) | ~Q(error=""),
        guards=_GUARDS,
    ),
)

"""What of a schedule is sealed, for those who change keys."""

from typing import Final

from zerver.lib.resealing import Kind, Store
from zerver.schedule.models import Schedule

#: A payload that was written anew since it was read is not to be replaced by the old one.
STORE: Final = Store(kind=Kind.SCHEDULE, model=Schedule, blobs=("payload",), guards=("revision",))

"""Where in a queue's line a lane begins to look for due rows.

At the front, as long as that is cheap. PostgreSQL keeps rows that are gone for as long as any transaction is open that
might still see them, in the index too: whoever begins at the front then reads every row that was taken since, each time
anew. So once such a look has taken long, the next ones begin where the last one ended, and only now and then one begins
at the front: it finds what has come to stand behind us, as what was handed back, or was committed late.
"""

from collections.abc import Sequence
from typing import Final

from zerver.lib import clock
from zerver.lib.event_table import Claim, Place

#: What a look may take that costs nothing to speak of.
_CHEAP_SECONDS: Final = 0.005
#: After one that took longer nobody looks at the front for so many times as long: a tenth of the time goes to that.
_REST: Final = 9.0
#: What has come to stand behind us waits no longer than that, and as long as the look at the front takes.
_LONGEST_REST_SECONDS: Final = 30.0


class Bookmark:
    """One a lane. Threads that use it at once may undo each other's steps, which costs a look."""

    def __init__(self) -> None:
        #: Where the last look ended.
        self._place: Place | None = None
        #: What the last look at the front took.
        self._front_seconds = 0.0
        #: Monotonic.
        self._front_again_at = 0.0

    def begin(self) -> Place | None:
        """Where to begin now; None: at the front."""
        return None if clock.monotonic() >= self._front_again_at else self._place

    def looked(
        self, begun_at: Place | None, seconds: float, claims: Sequence[Claim], *, is_full: bool
    ) -> None:
        """A look took so long and found these. ``is_full``: as many as it might, so there may be more."""
        if begun_at is None:
            # The quicker one of two: a look that was slow alone has waited for a lock, or for the disk.
            self._front_seconds, before = seconds, self._front_seconds
            if min(seconds, before) > _CHEAP_SECONDS:
                rest_seconds = min(min(seconds, before) * _REST, _LONGEST_REST_SECONDS)
                self._front_again_at = clock.monotonic() + rest_seconds
        places = [claim.place for claim in claims]
        if not is_full and self._place is not None:
            places.append(self._place)  # all that is due stood before it, or was found
        if places:
            self._place = max(places)

"""Times, as columns take them."""

from datetime import datetime

from django.conf import settings
from django.utils import timezone


def storable(at: datetime) -> datetime:
    """An aware time as a project's DateTimeFields want it: with ``USE_TZ = False``, naive, in its ``TIME_ZONE``."""
    return at if settings.USE_TZ else timezone.make_naive(at)

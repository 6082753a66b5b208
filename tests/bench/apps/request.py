"""What a request does in every project: a transaction, a row, and perhaps an event."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from django.contrib.auth.models import Group
from django.db import transaction

_numbers = itertools.count()


def request(publish: Callable[[], object] | None) -> None:
    """``publish`` is called inside; None: no event."""
    with transaction.atomic():
        # Any table would do; this one is everybody's.
        Group.objects.create(name=f"request {next(_numbers)} of {id(_numbers)}")
        if publish is not None:
            publish()

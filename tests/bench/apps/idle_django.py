"""A process that has Django and a connection to its database, and does nothing: ``python -m`` this."""

from __future__ import annotations

import signal

import django
from django.db import connection

from tests.bench.ledger import Handler

django.setup()
connection.ensure_connection()
Handler().note({"n": 1})
signal.pause()

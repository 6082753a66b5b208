"""The tests' project, watched as one in production is: spans and what goes to Sentry are lines of files.

What is set up is set up here, in the settings, as a project does it that has no other place all its processes pass by.
"""

import os
import sys
from pathlib import Path
from typing import Any

from tests.settings import *  # noqa: F403

# As if they had never been: what is None there cannot be imported.
sys.modules.update(dict.fromkeys(os.environ.get("TEST_NOT_INSTALLED", "").split()))  # type: ignore[arg-type]

if _spans := os.environ.get("TEST_SPANS_FILE"):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    _exporter = ConsoleSpanExporter(
        out=Path(_spans).open("a"),  # noqa: SIM115 (for as long as the process lives)
        formatter=lambda span: span.to_json(indent=None) + "\n",
    )
    _provider = TracerProvider()
    _provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(_provider)

if _envelopes := os.environ.get("TEST_SENTRY_FILE"):
    import sentry_sdk
    from sentry_sdk.envelope import Envelope
    from sentry_sdk.transport import Transport

    class _ToFile(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            with Path(_envelopes or "").open("ab") as file:
                for item in envelope.items:
                    if item.type == "event":
                        file.write(item.payload.get_bytes() + b"\n")

    _given: dict[str, Any] = {"dsn": os.environ["TEST_SENTRY_DSN"]} if "TEST_SENTRY_DSN" in os.environ else {}
    sentry_sdk.init(**{"dsn": "http://key@127.0.0.1:9/1", "transport": _ToFile, **_given})

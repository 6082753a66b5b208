"""The tests' project, watched as one in production is: spans and what goes to Sentry are lines of files.

All is set up in the settings, by which every process of a project passes; tests ask for it in the environment.
"""

import os
import sys
from pathlib import Path
from typing import Any

from tests.settings import *  # noqa: F403

# As if they had never been: what is None there cannot be imported.
sys.modules.update(dict.fromkeys(os.environ.get("TEST_NOT_INSTALLED", "").split()))  # type: ignore[arg-type]

if os.environ.get("TEST_LOGGING") == "none":
    LOGGING: dict[str, Any] = {}

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

if _events := os.environ.get("TEST_SENTRY_FILE"):
    import sentry_sdk
    from sentry_sdk.envelope import Envelope
    from sentry_sdk.transport import Transport

    class _ToFile(Transport):
        """Sentry's own place for another way out."""

        def capture_envelope(self, envelope: Envelope) -> None:
            with Path(str(_events)).open("ab") as file:
                for item in envelope.items:
                    if item.type == "event":
                        file.write(item.payload.get_bytes() + b"\n")

    sentry_sdk.init("http://key@127.0.0.1:9/1", transport=_ToFile, attach_stacktrace=True)
elif _dsn := os.environ.get("TEST_SENTRY_DSN"):
    import sentry_sdk

    sentry_sdk.init(_dsn)

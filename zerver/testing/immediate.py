"""The immediate transport as fixtures ask for it, with a word to the user where it is not to be had."""

import pytest
from django.apps import apps
from django.conf import settings

from zerver.lib.conf import get_settings
from zerver.lib.transport import current
from zerver.lib.transport.immediate import ImmediateTransport


def immediate_transport(fixture: str) -> ImmediateTransport:
    """Fails the test, naming the mend, where events are not consumed on the spot."""
    require_zerver(fixture)
    transport = current.immediate()
    if transport is None:
        pytest.fail(
            f"{fixture} needs QUEUE_URL = 'immediate://' in the settings of your tests; it is {get_settings().scheme}://",
            pytrace=False,
        )
    return transport


def require_zerver(what: str) -> None:
    """Fails the test, naming the mend, where Django or zerver is not set up."""
    if not settings.configured or not apps.ready:
        pytest.fail(
            f"{what} needs Django set up: install pytest-django and set DJANGO_SETTINGS_MODULE", pytrace=False
        )
    if not apps.is_installed("zerver"):
        pytest.fail(f"{what} needs 'zerver' in INSTALLED_APPS", pytrace=False)

"""The project's own settings, with an app whose workers do what the tests' events tell them."""

from zerver.settings import *  # noqa: F403
from zerver.settings import INSTALLED_APPS as _OWN_APPS

INSTALLED_APPS = [*_OWN_APPS, "tests.ledger"]

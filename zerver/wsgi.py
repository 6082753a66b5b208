"""WSGI entry of this repository's own project."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zerver.settings")

application = get_wsgi_application()

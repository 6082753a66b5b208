#!/usr/bin/env python3
"""Django's entry point for this repository's own project."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zerver.settings")
    try:
        # Here, for Ctrl-C may come while Django is being loaded.
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says that SIGINT ended a program


if __name__ == "__main__":
    main()

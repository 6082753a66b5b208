"""Types of commands' options: what argparse does not know, refused with what would be right."""

from argparse import ArgumentTypeError


def seconds(text: str) -> float:
    """A length of time. Raises: ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 86_400:
        raise ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def whole_number(text: str) -> int:
    """Raises: ArgumentTypeError."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not value:
        raise ArgumentTypeError(f"{text!r} is no whole number above 0")
    return value

"""What keeps a file for an operator's program from being written."""

from dataclasses import dataclass

from zerver.lib.errors import ConfigurationError


@dataclass(eq=False)
class UnfitValue(ConfigurationError):
    """No such file could carry it, or should."""

    what: str
    value: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what} {self.value!r}: {self.mend}"

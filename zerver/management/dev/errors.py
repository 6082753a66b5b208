"""What keeps ``queue_dev`` from doing its work."""

from zerver.lib.errors import ZerverError


class DevError(ZerverError):
    """Told to the developer in one line; names the thing and the mend."""

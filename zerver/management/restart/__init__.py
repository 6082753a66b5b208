"""``queue_restart``: one process after the other, by whoever keeps them running."""

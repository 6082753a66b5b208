"""``queue_restart``: one worker process after the other, by whoever keeps them running."""

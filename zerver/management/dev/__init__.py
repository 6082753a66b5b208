"""What ``queue_dev`` is made of: child processes that end with it, a watcher, and the demonstration."""

"""The kinds of files that ``queue_config`` makes, one to a module."""

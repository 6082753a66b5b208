"""What runs in the peers' processes: a handler that notes, and a ``Publisher`` (see ``tests.bench.publish``) each."""

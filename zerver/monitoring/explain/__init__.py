"""Where an event is or what became of it, and why a queue does not move: as far as anything knows."""

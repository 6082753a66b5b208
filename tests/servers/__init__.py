"""Real servers for the tests, started on free ports with data of their own, and stopped whatever happens."""

"""Queue processors for Django teams: declare a queue, publish JSON, run workers."""

__version__ = "0.1.0"

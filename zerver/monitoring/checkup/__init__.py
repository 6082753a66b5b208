"""The doctor: what the code declares against what broker, database, workers and supervisor have of it.

Each source of findings looks, which yields values, and judges them, which is pure.
"""

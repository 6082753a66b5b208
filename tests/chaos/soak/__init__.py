"""A long load, watched: what the processes take of memory, descriptors, threads and connections, and how late events
are.
"""

"""Worker processes on two hosts at a broker of three nodes: ``scripts/bench --scale``.

A model of machines that are all on this one: the hosts are network namespaces, each worker process and each node of the
broker has a small share of a processor and no more. So whoever saturates first does so as on a machine of its own, and
it is seen whether more workers help, more queues, or nothing but more nodes; only the figures are as small as the
machines.

``network`` makes the hosts, ``shares`` the processors, ``fleet`` says who runs where, ``measure`` does it, ``result``
keeps it, ``picture`` and ``document`` tell it.
"""

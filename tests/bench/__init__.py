"""zerver beside its peers, measured: who takes part, what is done with each, and what is told of it.

``scripts/bench`` sets everything up and calls ``python -m tests.bench``. Four words, each a small module:

``peer.Peer``
    One who is measured: ``peers/NAME.py`` tells how its worker is started, how it publishes, and its best published
    settings, which are printed with the result. What runs in *its* environment is ``apps/NAME_app.py``: it imports the
    peer's packages and nothing of ours but ``tests.bench.ledger`` and ``tests.bench.events``, and has a ``Publisher``
    (see ``publish.py``).
``case.Case``
    What is done, under which ``setting.Setting``, by which peers, and which figures come of it: ``cases/*.py``. Its
    ``measure(site, peer)`` is one round of one peer, and returns ``{"rate": 21_000.0, "cpu_us": 11.2, …}``, the names
    being those of ``figures.FIGURES``. It raises ``CannotRunError`` with a reason, which is told in the result.
``site.Site``
    The servers, and what a round needs of them: ``site.round(peer, setting, slots=N)`` is a context with a vhost, a
    database and a ledger of its own; it starts workers, runs publishers, and waits for events to be handled.
``ledger``
    A file of 64-bit slots in shared memory, one for each event: event ``{"n": 7, …}`` writes the time at which it was
    handled into slot 7. From it come rate and latency, in the same way for everybody, and the proof that every event
    was handled: a round in which one is missing is an error, and no figure.

``measure`` runs the cases, interleaved: a round of each peer, A B C A B C …. ``result`` keeps the figures as JSON,
``report`` tells them: on the screen, as docs/performance.md, and as plots. ``goals.GOALS`` are the promised ratios.

``scale`` is a bench beside it, of ours alone, on hosts and a cluster of its own: see there.

To add a case for other transports: write a ``Peer`` whose ``needs`` name its servers (``"rabbitmq"``,
``"postgresql"``, ``"sqlite"``) and whose ``migrations`` make its tables, and a ``Case``, or an instance of one that is
there; name them in ``peers/__init__.py`` and ``cases/__init__.py``. Try it:
``scripts/bench --quick --case NAME --peer NAME``.
"""

"""Hyper-parameter search: a space of settings, trials of it, and the judgment of the winner.

``settings.py`` is what a configuration says of a search, ``space.py`` what is searched,
``samplers.py`` who proposes, ``ledger.py`` the truth of what was asked and told, ``proposer.py``
and ``rounds.py`` the machine between them, ``course.py`` one search from beginning to end,
``result.py`` what comes out, ``status.py`` how far it is. Only ``samplers.py``, ``proposer.py``,
``mirror.py`` and ``importances.py`` know Optuna.
"""

"""Hyper-parameter search: a space of settings, trials of it, and the judgment of the winner.

``settings.py`` holds the settings of a search and its definition, ``space.py`` the search space,
``samplers.py`` the samplers and pruners, ``trials.py`` a trial as runs and their outcome, and
``ledger.py`` the authoritative log of proposals and outcomes. ``scheduler.py`` controls how a
search proceeds: it asks the sampler for trials, hands their runs to a driver of
``experiments.study`` and tells the sampler the results. ``result.py`` chooses the winner and
evaluates it on test images, ``importances.py`` estimates how much each setting mattered,
``mirror.py`` copies the trials into an Optuna storage, and ``status.py`` reports the progress of a
search.

Optuna is imported inside functions of ``samplers.py``, ``scheduler.py``, ``mirror.py`` and
``importances.py`` and nowhere else.
"""

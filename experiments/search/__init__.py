"""Hyper-parameter search: a space of settings, trials of it, and the judgment of the winner.

``settings.py`` is what a configuration says of a search and the definition made of it, ``space.py``
what is searched, ``samplers.py`` who proposes and prunes, ``trials.py`` a trial as runs and what
they come to, ``ledger.py`` the truth of what was asked and told. How a search proceeds stands in
``scheduler.py``: it asks the sampler for trials, hands their runs to a driver of
``experiments.study`` and tells the sampler what came of them. ``result.py`` chooses the winner and
judges it on test images, ``importances.py`` says how much each setting mattered, ``mirror.py``
copies the trials into an Optuna storage, ``status.py`` says how far a search is.

Optuna is imported inside functions of ``samplers.py``, ``scheduler.py``, ``mirror.py`` and
``importances.py`` and nowhere else.
"""

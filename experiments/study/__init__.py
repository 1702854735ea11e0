"""Studies: variants x datasets x seeds, planned once and resumable at any moment.

``planner.py`` turns a configuration into cells (``overrides.py``: settings of some cells),
``dry_run.py`` shows a plan, ``driver.py`` runs what is missing and commits records under the lock
of ``lock.py``, ``progress.py`` shows how far it is, ``status.py`` reads a study folder, and
``tracking.py`` mirrors records in MLflow.
"""

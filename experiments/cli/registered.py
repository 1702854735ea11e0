"""Importing this module registers everything that a configuration can name: what a run uses, and
the roots of grids and searches.
"""

import experiments.run.registered
import experiments.search.settings
import experiments.study.planner

__all__ = ["experiments"]

"""Importing this module registers everything that any configuration can name: what a run can, and
the roots of grids and searches above it.
"""

import experiments.run.registered
import experiments.search.settings
import experiments.study.planner

__all__ = ["experiments"]

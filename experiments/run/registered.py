"""Importing this module registers everything that a configuration can name."""

import core.train.optimizers
import experiments.run.experiment
import experiments.search.settings
import experiments.study.planner
import methods
import refiners

__all__ = ["core", "experiments", "methods", "refiners"]

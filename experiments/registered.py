"""Importing this module registers everything that a configuration can name."""

import core.train.optim
import experiments.experiment
import experiments.grid
import experiments.search.settings
import methods
import refiners

__all__ = ["core", "experiments", "methods", "refiners"]

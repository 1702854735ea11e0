"""Importing this module registers everything that the configuration of a run can name."""

import core.data.augmentations
import core.train.optimizers
import experiments.run.experiment
import methods
import refiners

__all__ = ["core", "experiments", "methods", "refiners"]

"""Configurations of small grids, and their plans without any data behind them."""

import core.train.optimizers
import experiments.run.experiment
import methods.coop
import methods.zero_shot
import refiners.null_refiner
import refiners.text_refiner
from core.config import config_from_text
from experiments.study.planner import plan

REGISTERED = (
    core.train.optimizers,
    experiments.run.experiment,
    methods.coop,
    methods.zero_shot,
    refiners.null_refiner,
    refiners.text_refiner,
)
COMMON = """
experiment.method = @CoOp
experiment.refiner = @TextRefiner
experiment.optimizer = @SGD
experiment.schedule = @ConstantThenCosine
TextRefiner.alignment = @MlpAlignment
TextRefiner.cache = @EmaCache
TextRefiner.aggregation = @LinearAggregation
TextRefiner.semantic = @SemanticLoss
TextRefiner.regularization = @L1Regularization
grid.study = 'demo'
grid.datasets = ('shapes', 'beasts')
grid.seeds = (1, 2, 3)
"""
NAMED = (
    COMMON
    + """
grid.baseline = 'CoOp'
grid.variants = {
    'CoOp': {'experiment.refiner': @NullRefiner},
    'TextRefiner': {},
}
"""
)
TOGGLES = """
grid.factors = {
    'TextRefiner.cache': (@EmaCache, @NoCache),
    'TextRefiner.aggregation': (@LinearAggregation, @NoAggregation),
    'EmaCache.num_slots': (16, 5),
}
"""


def fingerprint_of(config):
    return {"dataset": "abc", "backbone": "def"}


def planned(text, **options):
    return plan(config_from_text(text), fingerprint_of, **options)

"""Short runs of one method on the embedded benchmark, and recorded sets beside the tests."""

import torch

from core.config import config_from_text
from experiments.run.run import assemble, evaluation_batches, run, train
from experiments.run.runtime import Runtime
from experiments.verify.verify import verify_set
from tests.helpers.paths import GOLDEN

OFF = """
experiment.refiner = @TextRefiner
TextRefiner.alignment = @NoAlignment
TextRefiner.cache = @NoCache
TextRefiner.aggregation = @NoAggregation
TextRefiner.semantic = @NoLoss
TextRefiner.regularization = @NoLoss
"""
ON = """
experiment.refiner = @TextRefiner
TextRefiner.alignment = @MlpAlignment
TextRefiner.cache = @EmaCache
TextRefiner.aggregation = @LinearAggregation
TextRefiner.semantic = @SemanticLoss
TextRefiner.regularization = @L1Regularization
"""


def check_recorded(name):
    """Every recorded tensor of a set is matched."""
    outcome = verify_set(GOLDEN / f"{name}.json")
    wrong = [d for d in outcome.differences if not d.ok]
    assert outcome.status == "matched", (outcome.problem, wrong)


def two_steps(method, settings="", refiner="experiment.refiner = @NullRefiner"):
    """The text of a configuration that trains a method for two steps on mosaic/vehicles."""
    return f"""
experiment.method = @{method}
{refiner}
experiment.optimizer = @SGD
experiment.schedule = @Constant
experiment.dataset = 'mosaic/vehicles'
experiment.shots = 2
experiment.epochs = 1
experiment.batch_size = 5
SGD.lr = 0.01
{settings}
"""


def run_text(text, folder, cache_dir):
    """The record of a run whose files lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return run(
        config_from_text(text),
        folder,
        identity=folder.name,
        variant="test",
        factors={},
        cache_dir=cache_dir,
        data_root=None,
        device="cpu",
        on_progress=lambda values: None,
    )


def built(text, cache_dir):
    """An assembled run, not trained."""
    return assemble(config_from_text(text), Runtime(cache_dir=cache_dir))


def trained_logits(text, cache_dir):
    """Logits and learned state after training in this process."""
    assembly = built(text, cache_dir)
    train(assembly, lambda values: None)
    return logits_of(assembly), assembly.model.state_dict()


@torch.no_grad()
def logits_of(assembly):
    """Logits of the first test images, or of all if they are a stream, adapted to as in a run."""
    model, method = assembly.model.eval(), assembly.model.method
    items = assembly.dataset.test if method.adapts_to == "stream" else assembly.dataset.test[:7]
    rows, places = [], []
    for batch in evaluation_batches(assembly, assembly.dataset, items):
        if method.adapts_to:
            with torch.enable_grad():
                method.adapt(batch, model)
        rows.append(model(batch).logits())
        places.append(batch.index)
    method.reset_adaptation()
    return torch.cat(rows)[torch.cat(places).argsort()]

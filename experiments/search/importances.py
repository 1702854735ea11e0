"""How much each setting mattered, by fANOVA over the completed trials."""

from pathlib import Path
from typing import Any

from core.store import search as store
from core.store.search import SEARCH_VERSION, read_definition
from experiments.search.mirror import copy_search

MIN_TRIALS = 10
NUM_TREES = 64
CAVEAT = (
    "fANOVA splits the variance of a random forest's fit over the whole space. It speaks of the "
    "trials that were made, which a sampler crowds around good values; it says nothing of the "
    "direction of an effect, shares interactions out, and leaves out settings that only some "
    "trials have. It is a hint where to look, not a test."
)


def write_importances(search_dir: Path) -> None:
    """Write ``importances.json``; where there are none it says why.

    Source: Hutter et al., ICML 2014 (fANOVA), as Optuna computes it.
    """
    definition = read_definition(search_dir)
    study = copy_search(search_dir, None, only=("complete",))
    num = len(study.trials)
    found: dict[str, Any] = {
        "schema_version": SEARCH_VERSION,
        "method": "fANOVA",
        "num_trials": num,
    }
    found |= {"num_trees": NUM_TREES, "caveat": CAVEAT, "objectives": {}, "reason": ""}
    if num < MIN_TRIALS:
        found["reason"] = f"{num} completed trials are too few, {MIN_TRIALS} are the least"
    else:
        found["objectives"], found["reason"] = _evaluate(study, definition["objectives"])
    store.write_importances(search_dir, found)


def _evaluate(study: Any, objectives: list[str]) -> tuple[dict[str, dict[str, float]], str]:
    """Shares by objective and setting, and why there are none."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    shares: dict[str, dict[str, float]] = {}
    for index, name in enumerate(objectives):
        values = [trial.values[index] for trial in study.trials]
        if len(set(values)) < 2:
            return {}, f"every trial has the same {name}"

        def target(trial: Any, index: int = index) -> float:
            return float(trial.values[index])

        evaluator = FanovaImportanceEvaluator(n_trees=NUM_TREES, seed=0)
        found = get_param_importances(study, evaluator=evaluator, target=target)
        shares[name] = {key: float(share) for key, share in found.items()}
    return shares, ""

"""How much each setting mattered, by fANOVA over the complete trials."""

from pathlib import Path
from typing import Any

from core.store.search import read_definition
from experiments.search.mirror import copy_search

MIN_TRIALS = 10
NUM_TREES = 64
CAVEAT = (
    "fANOVA splits the variance of a random forest's fit over the whole space. It reflects the "
    "trials that were run, which a sampler concentrates around good values; it does not show "
    "the direction of an effect, divides interactions among their settings, and leaves out "
    "settings that only some trials have. It indicates where to look; it is not a test."
)


def importances_of(search_dir: Path) -> dict[str, Any]:
    """The importances of a search as plain data; ``reason`` explains why there are none, if so.

    Source: Hutter et al., ICML 2014 (fANOVA), as Optuna computes it.
    """
    definition = read_definition(search_dir)
    study = copy_search(search_dir, None, only=("complete",))
    num = len(study.trials)
    shares: dict[str, dict[str, float]] = {}
    reason = f"{num} complete trials are too few, {MIN_TRIALS} are needed"
    if num >= MIN_TRIALS:
        shares, reason = _evaluate(study, definition["objectives"])
    return {
        "method": "fANOVA",
        "num_trials": num,
        "num_trees": NUM_TREES,
        "caveat": CAVEAT,
        "objectives": shares,
        "reason": reason,
    }


def _evaluate(study: Any, objectives: list[str]) -> tuple[dict[str, dict[str, float]], str]:
    """Shares by objective and setting, and the reason if there are none."""
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

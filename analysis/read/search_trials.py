"""The trials of a hyperparameter search as numbers: the best value, when, and its expectation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.store.record import read_records
from core.store.search import Trial, read_definition, read_importances, read_result, read_trials


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchData:
    """A search folder: definition, trials in order, and, once they exist, the judgment, the
    importances and the random control. ``seconds`` is the compute time of all its runs.
    """

    folder: Path
    definition: Mapping[str, Any]
    trials: tuple[Trial, ...]
    result: Mapping[str, Any] | None
    importances: Mapping[str, Any] | None
    control: tuple[Trial, ...]
    seconds: float

    @property
    def name(self) -> str:
        """The name of the study."""
        return str(self.definition["study"])

    @property
    def objectives(self) -> tuple[str, ...]:
        """What trials are judged by; the first determines the winner."""
        return tuple(self.definition["objectives"])

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials whose runs all finished."""
        return tuple(trial for trial in self.trials if trial.complete)


def read_search(folder: Path) -> SearchData:
    """Read the folder of a search. Raises ValueError where there is none that can be read."""
    definition, result = read_definition(folder), read_result(folder)
    control: tuple[Trial, ...] = ()
    if result is not None and result["control_study"]:
        control = read_trials(folder.parent / result["control_study"])
    seconds = sum(record.cost.total_seconds for record in read_records(folder) if record.cost)
    return SearchData(
        folder=folder,
        definition=definition,
        trials=read_trials(folder),
        result=result,
        importances=read_importances(folder),
        control=control,
        seconds=seconds,
    )


def best_so_far(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """(number, best first objective so far), one per trial from the first complete one on."""
    found: list[tuple[int, float]] = []
    for trial in trials:
        best = found[-1][1] if found else -math.inf
        best = max(best, trial.values[0]) if trial.complete else best
        if math.isfinite(best):
            found.append((trial.number, best))
    return found


def expected_best(values: Sequence[float]) -> list[float]:
    """Expected maximum of b = 1 .. n of n values drawn without replacement.

    What a search of b trials would have found on average over all orders of its trials.
    Exact for random search; the trials of a sampler that learns are not exchangeable. After Dodge
    et al., EMNLP 2019, arXiv 1909.03004, who draw with replacement.
    """
    ordered = sorted(values)
    n = len(ordered)
    expected: list[float] = []
    for b in range(1, n + 1):
        ways = (math.comb(rank, b - 1) * value for rank, value in enumerate(ordered))
        expected.append(sum(ways) / math.comb(n, b))
    return expected

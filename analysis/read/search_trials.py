"""The trials of a hyper-parameter search as numbers: what was found, when, and by how much luck."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.store.record import read_study

DEFINITION_NAME = "search.json"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial: its settings as text, and what it came to. ``values`` follow the objectives."""

    number: int
    params: Mapping[str, str]
    state: str
    values: tuple[float, ...]
    num_runs: int
    message: str

    @property
    def complete(self) -> bool:
        """Whether every run of it finished."""
        return self.state == "complete"


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
        """What trials are judged by; the first names the winner."""
        return tuple(self.definition["objectives"])

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials whose runs all finished."""
        return tuple(trial for trial in self.trials if trial.complete)


def read_search(folder: Path) -> SearchData:
    """Read the folder of a search. Raises ValueError where there is none that can be read."""
    definition = _read(folder / DEFINITION_NAME)
    if definition is None:
        raise ValueError(f"{folder} is no search: it has no {DEFINITION_NAME}")
    result = _read(folder / "result.json")
    control: tuple[Trial, ...] = ()
    if result is not None and result["control_study"]:
        control = _trials(folder.parent / result["control_study"])
    seconds = sum(record.cost.total_seconds for record in read_study(folder) if record.cost)
    return SearchData(
        folder=folder,
        definition=definition,
        trials=_trials(folder),
        result=result,
        importances=_read(folder / "importances.json"),
        control=control,
        seconds=seconds,
    )


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): run the search again") from None
    if found.get("schema_version") != VERSION:
        version = found.get("schema_version")
        raise ValueError(f"{path} has schema version {version}, this version reads {VERSION}")
    return found


def _trials(folder: Path) -> tuple[Trial, ...]:
    table = _read(folder / "trials.json")
    rows = table["trials"] if table else []
    return tuple(Trial(**{**row, "values": tuple(row["values"])}) for row in rows)


def best_so_far(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """(number, best first objective until then), one a trial from the first complete one on."""
    found: list[tuple[int, float]] = []
    for trial in trials:
        best = found[-1][1] if found else -math.inf
        best = max(best, trial.values[0]) if trial.complete else best
        if math.isfinite(best):
            found.append((trial.number, best))
    return found


def expected_best(values: Sequence[float]) -> list[float]:
    """Expected maximum of b = 1 .. n of n values drawn without replacement.

    What a search of b trials would have found on average, had its trials come in any other order.
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

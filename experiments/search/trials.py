"""A trial as runs, and the outcome of its runs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from core.config import Config
from core.metrics import harmonic_mean
from core.store.record import RunRecord
from core.store.search import DEFAULT, TrialState
from experiments.run.bundles import bundle_of
from experiments.search.ledger import Told
from experiments.search.settings import OBJECTIVES, Search
from experiments.study.planner import ROOT, Cell, FingerprintOf

TROUBLE: tuple[TrialState, ...] = ("failed", "diverged")
"""States of a run that decide the state of its trial, the worse one first."""


@dataclass(slots=True)
class TrialRuns:
    """The runs of one trial, in stages after which a pruner may decide, and their records so far.

    ``number`` is None for the default configuration, which no sampler is told about. The first
    ``num_begun`` stages have begun. ``told`` is the outcome of the trial.
    """

    number: int | None
    params: Mapping[str, str]
    stages: tuple[tuple[Cell, ...], ...]
    records: dict[str, RunRecord] = field(default_factory=dict)
    num_begun: int = 1
    told: Told | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All runs in their fixed order."""
        return tuple(cell for stage in self.stages for cell in stage)

    @property
    def begun(self) -> tuple[Cell, ...]:
        """The runs of the stages begun."""
        return tuple(cell for stage in self.stages[: self.num_begun] for cell in stage)

    @property
    def waits(self) -> bool:
        """Whether some run of the stages begun has not ended."""
        return any(cell.identity not in self.records for cell in self.begun)

    def waits_for(self, identity: str) -> bool:
        """Whether this run belongs to the stages begun and has not ended."""
        return identity not in self.records and any(c.identity == identity for c in self.begun)

    def parts(self, search: Search) -> tuple[float, ...]:
        """The first objective of the finished runs of the stages begun, in the fixed order."""
        records = [self.records[c.identity] for c in self.begun if c.identity in self.records]
        finished = [record for record in records if record.status == "finished"]
        return tuple(run_value(record, search.objectives[0]) for record in finished)


def runs_of_trial(
    number: int | None,
    params: Mapping[str, str],
    config: Config,
    search: Search,
    fingerprint_of: FingerprintOf,
    *,
    staged: bool,
) -> TrialRuns:
    """A trial with the cells of its runs; ``staged`` where a pruner decides."""
    name = DEFAULT if number is None else f"trial {number}"
    stages = list(_stages(search))
    if not staged:
        stages = [[pair for stage in stages for pair in stage]]
    cells: dict[tuple[str, int], Cell] = {}
    for dataset, seed in (pair for stage in stages for pair in stage):
        made = config.with_bindings(search.run_bindings(dataset, seed), "search")
        cells[dataset, seed] = Cell(
            variant=name,
            dataset=dataset,
            seed=seed,
            identity=made.identity(ROOT, fingerprint_of(made)),
            config_text=made.text(),
            factors=dict(params),
            bundle=bundle_of(made),
        )
    return TrialRuns(number, params, tuple(tuple(cells[p] for p in stage) for stage in stages))


def _stages(search: Search) -> Iterator[list[tuple[str, int]]]:
    """Dataset and seed of a trial's runs, stage by stage."""
    if search.stage == "dataset":
        yield from ([(d, s) for s in search.seeds] for d in search.datasets)
        return
    for seed in search.seeds:
        pairs = [(dataset, seed) for dataset in search.datasets]
        yield from [pairs] if search.stage == "seed" else ([pair] for pair in pairs)


def judge(trial: TrialRuns, search: Search, *, pruned: bool) -> Told:
    """The outcome of a trial whose runs have ended.

    A run that failed for good (crashed, timed out) makes it "failed", one whose loss was not finite
    "diverged": the finished runs alone do not represent the trial. An objective that is not a
    finite number makes it "failed" as well.
    """
    assert trial.number is not None
    ended = [trial.records[c.identity] for c in trial.cells if c.identity in trial.records]
    parts = trial.parts(search)
    for state in TROUBLE:
        for record in ended:
            if record.status == state:
                message = f"{record.dataset}, seed {record.seed}: {record.message}"
                finite = tuple(part for part in parts if math.isfinite(part))
                return Told(trial=trial.number, state=state, parts=finite, message=message)
    values = tuple(fmean(run_value(r, name) for r in ended) for name in search.objectives)
    if not all(map(math.isfinite, values)):
        shown = ", ".join(f"{n} = {v}" for n, v in zip(search.objectives, values, strict=True))
        return Told(trial=trial.number, state="failed", message=f"not finite: {shown}")
    return Told(
        trial=trial.number,
        state="pruned" if pruned else "complete",
        values=values,
        parts=parts,
    )


def run_value(record: RunRecord, objective: str) -> float:
    """One objective of one finished run."""
    if not OBJECTIVES[objective].maximized:
        assert record.cost is not None
        return float(getattr(record.cost, objective))
    if objective == "val":
        return _accuracy(record, "all")
    if objective == "hm":
        return harmonic_mean(_accuracy(record, "base"), _accuracy(record, "new"))
    return _accuracy(record, objective)


def _accuracy(record: RunRecord, target: str) -> float:
    found = record.accuracy(target)
    if found is None:
        raise ValueError(
            f"run {record.identity} of the protocol {record.protocol!r} has no score {target!r}"
        )
    return found


def mean_of(records: Sequence[RunRecord], objective: str) -> float | None:
    """The mean of an objective over runs, None where one of them did not finish."""
    if not records or any(record.status != "finished" for record in records):
        return None
    return fmean(run_value(record, objective) for record in records)

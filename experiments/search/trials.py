"""A trial as runs, and what its runs say of it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from core.config import Config
from core.metrics import harmonic_mean
from core.store.record import RunRecord
from experiments.search.ledger import Told
from experiments.search.settings import AIMS, Search
from experiments.study.planner import ROOT, Cell, FingerprintOf

DEFAULT = "default"


@dataclass(slots=True)
class Trial:
    """The runs of one trial, in stages after which a pruner may look, and their records so far.

    ``number`` is None for the default, which no sampler hears of.
    """

    number: int | None
    params: Mapping[str, str]
    stages: tuple[tuple[Cell, ...], ...]
    records: dict[str, RunRecord] = field(default_factory=dict)
    begun: int = 1
    told: Told | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All runs in their fixed order."""
        return tuple(cell for stage in self.stages for cell in stage)

    def waits_for(self, identity: str) -> bool:
        """Whether a run of the stages begun has not ended."""
        current = (cell for stage in self.stages[: self.begun] for cell in stage)
        return identity not in self.records and any(c.identity == identity for c in current)

    @property
    def idle(self) -> bool:
        """Whether every run of the stages begun has ended."""
        return all(c.identity in self.records for stage in self.stages[: self.begun] for c in stage)

    def parts(self, search: Search) -> tuple[float, ...]:
        """The first objective of the finished runs of the stages begun, in the fixed order."""
        cells = [cell for stage in self.stages[: self.begun] for cell in stage]
        records = [self.records[cell.identity] for cell in cells if cell.identity in self.records]
        good = [record for record in records if record.status == "finished"]
        return tuple(run_value(record, search.objectives[0]) for record in good)


def trial_of(
    number: int | None,
    params: Mapping[str, str],
    config: Config,
    search: Search,
    fingerprint_of: FingerprintOf,
    *,
    staged: bool,
) -> Trial:
    """A trial with the cells of its runs; ``staged`` where a pruner looks."""
    name = DEFAULT if number is None else f"trial {number}"
    make = partial(_cell, name, params, config, search, fingerprint_of)
    places = {(dataset, seed): make(dataset, seed) for dataset, seed in _places(search)}
    stages = list(_stages(search)) if staged else [list(_places(search))]
    return Trial(number, params, tuple(tuple(places[p] for p in stage) for stage in stages))


def _places(search: Search) -> Iterator[tuple[str, int]]:
    for stage in _stages(search):
        yield from stage


def _stages(search: Search) -> Iterator[list[tuple[str, int]]]:
    """The places of a trial's runs, stage by stage."""
    if search.stage == "dataset":
        yield from ([(d, s) for s in search.seeds] for d in search.datasets)
        return
    for seed in search.seeds:
        row = [(dataset, seed) for dataset in search.datasets]
        yield from [row] if search.stage == "seed" else ([place] for place in row)


def _cell(
    name: str,
    params: Mapping[str, str],
    config: Config,
    search: Search,
    fingerprint_of: FingerprintOf,
    dataset: str,
    seed: int,
) -> Cell:
    bindings = {
        f"{ROOT}.dataset": dataset,
        f"{ROOT}.seed": seed,
        f"{ROOT}.protocol": search.protocol,
        f"{ROOT}.targets": (),
    }
    made = config.with_bindings(bindings, "search")
    return Cell(
        variant=name,
        dataset=dataset,
        seed=seed,
        identity=made.identity(ROOT, fingerprint_of(made)),
        config_text=made.text(),
        factors=dict(params),
    )


def judge(trial: Trial, search: Search, *, pruned: bool) -> Told:
    """What a trial whose runs have ended comes to.

    A run that failed for good (crashed, timed out) makes it "failed", one whose loss was not finite
    "diverged"; so many of its runs as there are must not stand for all of them. An objective that
    is no finite number makes it "failed", too.
    """
    assert trial.number is not None
    ended = [trial.records[c.identity] for c in trial.cells if c.identity in trial.records]
    parts = trial.parts(search)
    for status, state in (("failed", "failed"), ("diverged", "diverged")):
        for record in ended:
            if record.status == status:
                message = f"{record.dataset}, seed {record.seed}: {record.message}"
                finite = tuple(part for part in parts if math.isfinite(part))
                return Told(trial=trial.number, state=state, parts=finite, message=message)  # type: ignore[arg-type]
    values = trial_values(trial, search)
    if not all(map(math.isfinite, values)):
        shown = ", ".join(f"{n} = {v}" for n, v in zip(search.objectives, values, strict=True))
        return Told(trial=trial.number, state="failed", message=f"not finite: {shown}")
    state = "pruned" if pruned else "complete"
    return Told(trial=trial.number, state=state, values=values, parts=parts)  # type: ignore[arg-type]


def best_of(outcomes: Iterable[Told]) -> Told | None:
    """The completed trial with the best first objective, the earliest of equals."""
    complete = [told for told in outcomes if told.state == "complete"]
    return max(complete, key=lambda told: (told.values[0], -told.trial), default=None)


def trial_values(trial: Trial, search: Search) -> tuple[float, ...]:
    """The objectives of a trial: means over the runs it made, all datasets and seeds alike."""
    records = [trial.records[c.identity] for c in trial.cells if c.identity in trial.records]
    return tuple(fmean(run_value(r, name) for r in records) for name in search.objectives)


def run_value(record: RunRecord, objective: str) -> float:
    """One objective of one finished run."""
    if not AIMS[objective].maximized:  # type: ignore[index]
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

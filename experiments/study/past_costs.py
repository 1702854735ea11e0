"""What the runs of a study that have finished took, for those that are left of it.

A plan reads no data, so the identity of a planned run is formed with the fingerprints of data and
weights that a record has: the run is done if it is that one for the data as they were then. Seconds
count for runs of the same settings; the seed decides none of them, and the epochs how many there
are.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from core.config import Config, config_from_text, format_value
from core.store.names import CONFIG_NAME
from core.store.record import Cost, RunRecord, record_paths
from core.store.run_facts import devices_of, lacked_memory
from experiments.run.stale import CodeCheck
from experiments.study.planner import ROOT, Cell
from experiments.study.status import read_valid_records

FOUND_IN_BUILDING = ("few_shot", "activation")  # of a record's fingerprints: in no identity
EPOCHS, SEED = f"{ROOT}.epochs", f"{ROOT}.seed"
LAST = "last"

Settings = frozenset[tuple[str, str]]
Inputs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A finished run: its epochs that were trained, its cost, and where it ran."""

    epochs: int
    cost: Cost
    device: str
    on_gpu: bool

    def seconds(self, epochs: int, selection: str) -> float:
        """Its seconds, if it had so many epochs; those beside training are the same for any number,
        unless each epoch is scored.
        """
        if epochs == self.epochs:
            return self.cost.total_seconds
        beside = self.cost.total_seconds - self.cost.train_seconds if selection == LAST else 0.0
        return beside + (self.cost.total_seconds - beside) * epochs / self.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCost:
    """The mean of finished runs. ``peak_mib`` is of a GPU, and 0 where they ran on none;
    ``is_scaled`` says that they had other numbers of epochs.
    """

    seconds: float
    peak_mib: float
    devices: tuple[str, ...]
    on_gpu: bool
    is_scaled: bool


class PastRuns:
    """The records of a study, and the settings of those that have finished, by identity.

    ``stale`` runs are to do again: the code that made them has changed. With ``device_name`` the
    seconds of other devices do not count.
    """

    def __init__(
        self,
        records: Iterable[RunRecord] = (),
        configs: Mapping[str, Config] | None = None,
        *,
        stale: Iterable[str] = (),
        device_name: str = "",
    ) -> None:
        self._records = {record.identity: record for record in records}
        self._stale = frozenset(stale)
        self._inputs: dict[str, dict[Inputs, None]] = defaultdict(dict)
        self._costs: dict[Settings, list[PastRun]] = defaultdict(list)
        for record in self._records.values():
            inputs = {k: v for k, v in record.fingerprints.items() if k not in FOUND_IN_BUILDING}
            self._inputs[record.dataset][tuple(sorted(inputs.items()))] = None
        for identity, config in (configs or {}).items():
            run = _past_run(self._records[identity], config)
            if run and device_name.casefold() in run.device.casefold():
                self._costs[_settings(config)].append(run)

    def record_of(self, cell: Cell, config: Config) -> RunRecord | None:
        """The record after which a study does not run this cell, or None where it is to do."""
        for inputs in self._inputs.get(cell.dataset, ()):
            identity = config.identity(ROOT, dict(inputs))
            record = self._records.get(identity)
            if record and identity not in self._stale and not lacked_memory(record):
                return record
        return None

    def cost_of(self, config: Config) -> PastCost | None:
        """What a run should take after those of the same settings: on a GPU, if any was on one, and
        of as many epochs, if any had as many.
        """
        if not (found := self._costs.get(_settings(config), [])):
            return None
        found = [run for run in found if run.on_gpu] or found
        values = config.operative(ROOT)
        epochs, selection = _epochs(config), str(values[f"{ROOT}.selection"])
        same = [run for run in found if run.epochs == epochs]
        runs = same or found
        return PastCost(
            seconds=fmean(run.seconds(epochs, selection) for run in runs),
            peak_mib=max(run.cost.peak_memory_mb if run.on_gpu else 0.0 for run in runs),
            devices=tuple(sorted({run.device for run in runs})),
            on_gpu=runs[0].on_gpu,
            is_scaled=not same,
        )


def read_past(study_dir: Path, device_name: str = "") -> PastRuns:
    """The runs of a study folder; a damaged record is none, as for whoever runs the study."""
    identities = [path.parent.name for path in record_paths(study_dir)]
    records = read_valid_records(study_dir, identities)
    configs: dict[str, Config] = {}
    for identity in records:
        path = study_dir / identity / CONFIG_NAME
        with suppress(ValueError, OSError):  # a run whose settings nobody can read tells nothing
            configs[identity] = config_from_text(path.read_text(encoding="utf-8"), str(path))
    stale = CodeCheck().stale(study_dir, records)
    return PastRuns(records.values(), configs, stale=stale, device_name=device_name)


def _past_run(record: RunRecord, config: Config) -> PastRun | None:
    """None for a record without a cost, such as that of a run that failed, and for a run that went
    on on another device, whose seconds are of neither.
    """
    devices = devices_of(record)
    if record.status != "finished" or record.cost is None or len(devices) > 1:
        return None
    made_by = record.environment
    return PastRun(
        epochs=record.stopped_epoch or _epochs(config),
        cost=record.cost,
        device=devices[0] if devices else "a device unknown",
        on_gpu=bool(made_by.get("gpu")) or str(made_by.get("device")).startswith("cuda"),
    )


def _epochs(config: Config) -> int:
    epochs = config.canonical(ROOT)[EPOCHS]
    assert isinstance(epochs, int)
    return epochs


def _settings(config: Config) -> Settings:
    """Everything in a configuration that matters, but the seed and the number of epochs."""
    values = config.canonical(ROOT)
    return frozenset((k, format_value(v)) for k, v in values.items() if k not in (SEED, EPOCHS))

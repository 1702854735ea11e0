"""How the runs of each variant were trained: backbone, budget, rate, and what its classes cite."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.read.results import Results
from core.store.record import read_record
from core.store.settings import Operative, has_config, plain_value, read_operative

NOT_RECORDED = "?"
NO_METHOD = "NullRefiner"

EARLIER_SOURCES: Mapping[str, str] = {
    "CoCoOp": "arXiv 2203.05557",
    "CoOp": "arXiv 2109.01134",
    "IVLP": "arXiv 2210.03117",
    "PromptKD": "arXiv 2403.02781",
    "PromptSRC": "arXiv 2307.06948",
    "SEP": "arXiv 2405.15549",
    "TextRefiner": "arXiv 2412.08176",
    "ZeroShot": "arXiv 2103.00020",
}
"""What the methods cite whose runs may be older than ``operative.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantTraining:
    """How the runs of one variant were trained. Values that differ between its runs are all there.

    ``settings`` maps a name for readers to its values as text; it is empty for a variant that takes
    no steps. ``backbone`` has names with weights. ``classes`` are the method, the refiner, then the
    other classes with a source, and ``sources`` what each cites. ``patience`` are the limits of
    early stopping, and ``stopped`` counts the runs that it ended. ``complete`` is False where runs
    of an earlier version do not record their defaults.
    """

    backbone: tuple[str, ...] = ()
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    patience: tuple[str, ...] = ()
    stopped: int = 0
    complete: bool = True


def read_trainings(results: Results, study_dir: Path | None) -> dict[str, VariantTraining]:
    """The training of each variant of a study folder; of those from elsewhere nothing is known.

    Settings are read from one run per dataset and number of shots: seeds change nothing else.
    """
    if study_dir is None or results.runs.empty or "identity" not in results.runs:
        return {}
    finished = results.runs[results.runs["status"] == "finished"]
    firsts = finished.drop_duplicates(["variant", "dataset", "shots"])
    found: dict[str, list[_Run]] = {}
    for variant, identity in zip(firsts["variant"], firsts["identity"], strict=True):
        if has_config(study_dir / str(identity)):
            found.setdefault(str(variant), []).append(_read(study_dir / str(identity)))
    stopping = {v for v, runs in found.items() if _patience(runs)}
    stopped = Counter(
        str(variant)
        for variant, identity in zip(finished["variant"], finished["identity"], strict=True)
        if str(variant) in stopping and _stopped_early(study_dir / str(identity))
    )
    return {variant: _training(runs, stopped[variant]) for variant, runs in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The settings in force in one run, and whether it took steps."""

    operative: Operative
    took_steps: bool

    def value(self, key: str) -> str:
        """A setting as people write it; unknown where the run is older than that record."""
        text = self.operative.settings.get(key)
        return NOT_RECORDED if text is None else plain_value(text).removeprefix("@")


def _read(run_dir: Path) -> _Run:
    record = read_record(run_dir)
    took_steps = record is None or record.selected_epoch != 0
    return _Run(operative=read_operative(run_dir), took_steps=took_steps)


def _stopped_early(run_dir: Path) -> bool:
    record = read_record(run_dir)
    return record is not None and record.stopped_epoch is not None


def _patience(runs: Sequence[_Run]) -> tuple[str, ...]:
    values = _distinct(run.value("experiment.patience") for run in runs if run.took_steps)
    return tuple(v for v in values if v not in ("0", NOT_RECORDED))


def _training(runs: Sequence[_Run], stopped: int) -> VariantTraining:
    """What several runs of one variant have in common, and where they differ."""
    stepping = [run for run in runs if run.took_steps]
    settings = {
        "epochs": _distinct(run.value("experiment.epochs") for run in stepping),
        "batch size": _distinct(run.value("experiment.batch_size") for run in stepping),
        "optimizer": _distinct(run.value("experiment.optimizer") for run in stepping),
        "learning rate": _distinct(
            run.value(f"{run.value('experiment.optimizer')}.lr") for run in stepping
        ),
        "schedule": _distinct(run.value("experiment.schedule") for run in stepping),
    }
    known = {
        name: kept
        for name, values in settings.items()
        if (kept := tuple(v for v in values if v != NOT_RECORDED))
    }
    methods = _distinct(
        name
        for run in runs
        for key in ("experiment.method", "experiment.refiner")
        if (name := run.value(key)) not in (NOT_RECORDED, NO_METHOD)
    )
    sources = {name: text for run in runs for name, text in run.operative.sources.items()}
    earlier = {name: EARLIER_SOURCES[name] for name in methods if name in EARLIER_SOURCES}
    trained = bool(stepping)
    return VariantTraining(
        backbone=_distinct(_backbone(run) for run in runs),
        settings=known if trained else {},
        methods=methods,
        parts=tuple(name for name in sources if name not in methods),
        sources={**earlier, **sources},
        patience=_patience(runs),
        stopped=stopped,
        complete=all(run.operative.sources for run in runs),
    )


def _backbone(run: _Run) -> str:
    """The name of the frozen model, with its weights; an earlier default is the embedded one."""
    name, weights = run.value("experiment.backbone"), run.value("experiment.weights")
    if name == NOT_RECORDED:
        return "mosaic"
    return name if weights in ("None", NOT_RECORDED) else f"{name} ({Path(weights).name})"


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Different values in the order of their first appearance."""
    return tuple(dict.fromkeys(values))

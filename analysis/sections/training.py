"""How training went: what runs logged per epoch, with the seeds as a band."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from analysis.figures.training import TrainingInfo, training_figure
from analysis.sections.analysis import Analysis, once
from analysis.sections.class_counts import NEEDS_FOLDER, Seed, finished_runs
from analysis.sections.section import Section, Topic
from analysis.text import Column, Columns, Kind, only_in_files, table
from core.store.epochs import numbers_of, read_epochs, terms_of

TITLE = "Training curves"
MAX_VARIANTS = 8
MAX_POINTS = 60
TOTAL = "loss"
PRINTED = {"ce": "cross-entropy", TOTAL: "training loss", "kd": "distillation loss"}
"""Printed names of the terms that methods log; others are printed as they are logged."""
NOTHING_LOGGED = "no run logged an epoch: nothing was trained"

Epochs = Sequence[Mapping[str, float]]


class TrainingLogs(NamedTuple):
    """The logs of the runs that trained, by variant, dataset and seed; ``reason`` says why there
    are none.
    """

    runs: Mapping[tuple[str, str, Seed], Epochs]
    reason: str = ""


@once
def training_logs(analysis: Analysis) -> TrainingLogs:
    """The logs of every finished run, unless there are too many."""
    if analysis.folder is None or analysis.results.runs.empty:
        return TrainingLogs({}, NEEDS_FOLDER.replace("single classes need", "training curves need"))
    rows, _ = finished_runs(analysis.results)
    if len(rows) > analysis.image_runs:
        return TrainingLogs(
            {},
            f"{len(rows):,} logs would have to be read, and the limit is {analysis.image_runs:,}; "
            f"report with --image-runs {len(rows)}",
        )
    found: dict[tuple[str, str, Seed], Epochs] = {}
    for row in rows:
        try:
            epochs = [numbers_of(e) for e in read_epochs(analysis.folder / row["identity"])]
        except ValueError as error:
            return TrainingLogs({}, str(error).replace(f"{analysis.folder}/", ""))
        if epochs:
            found[row["variant"], row["dataset"], row["seed"]] = epochs
    return TrainingLogs(found, "" if found else NOTHING_LOGGED)


def shared_term(logs: TrainingLogs) -> tuple[str, str]:
    """What can be compared between the runs, and a sentence that says what it is.

    The total loss of objectives with different terms is not comparable: then it is the first term
    that all runs log.
    """
    logged = [
        [key for key in terms_of(epochs[0]) if all(key in epoch for epoch in epochs)]
        for epochs in logs.runs.values()
    ]
    terms = [[key for key in keys if key != TOTAL] for keys in logged]
    shared = [key for key in terms[0] if all(key in own for own in terms)]
    if any(set(own) != set(terms[0]) for own in terms) and shared:
        return shared[0], (
            f"The term of the training loss that all variants share, {_printed(shared[0])} on "
            "training images: their total losses have different terms and cannot be compared."
        )
    if all(TOTAL in keys for keys in logged):
        return TOTAL, "The loss that training minimizes, mean over the steps of an epoch."
    return "", ""


def _printed(term: str) -> str:
    return PRINTED.get(term, term)


def _curves(
    logs: TrainingLogs, term: str, variants: Sequence[str], datasets: Sequence[str]
) -> list[TrainingInfo]:
    curves = []
    for dataset in datasets:
        for variant in variants:
            runs = [e for (v, d, _), e in logs.runs.items() if (v, d) == (variant, dataset)]
            if runs:
                curves.append(_curve(variant, dataset, runs, term))
    return curves


def _curve(variant: str, dataset: str, runs: Sequence[Epochs], term: str) -> TrainingInfo:
    """Mean, lowest and highest seed in each epoch that all runs have, thinned to ``MAX_POINTS``."""
    length = min(len(run) for run in runs)
    step = -(-length // MAX_POINTS)
    kept = sorted({*range(0, length, step), length - 1})
    values = [[float(run[i][term]) for run in runs] for i in kept]
    return TrainingInfo(
        variant=variant,
        dataset=dataset,
        seeds=len(runs),
        epochs=tuple(int(runs[0][i].get("epoch", i + 1)) for i in kept),
        mean=tuple(fmean(v) for v in values),
        lowest=tuple(min(v) for v in values),
        highest=tuple(max(v) for v in values),
    )


COLUMNS: Columns[TrainingInfo] = (
    Column("variant", "Variant", Kind.NAME, lambda c: c.variant),
    Column("dataset", "Dataset", Kind.TEXT, lambda c: c.dataset),
    Column("seeds", "Seeds", Kind.COUNT, lambda c: c.seeds),
    Column("epochs", "Epochs", Kind.COUNT, lambda c: c.epochs[-1]),
    Column("first", "First epoch", Kind.MEASURE, lambda c: c.mean[0]),
    Column("last", "Last epoch", Kind.MEASURE, lambda c: c.mean[-1]),
    Column("last_lowest", "Last epoch, lowest seed", Kind.MEASURE, lambda c: c.lowest[-1]),
    Column("last_highest", "Last epoch, highest seed", Kind.MEASURE, lambda c: c.highest[-1]),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    logs, results = training_logs(analysis), analysis.results
    if logs.reason:
        return [Section(key="training", reason=logs.reason)]
    term, remark = shared_term(logs)
    if not term:
        return [Section(key="training", reason="the runs share no logged quantity")]
    trained = {variant for variant, _, _ in logs.runs}
    order = dict.fromkeys((results.baseline, *results.references, *results.variants))
    variants = [v for v in order if v in trained]
    datasets = list(dict.fromkeys(dataset for _, dataset, _ in logs.runs))
    curves = _curves(logs, term, variants, datasets)
    shown = variants[:MAX_VARIANTS]
    if len(shown) < len(variants):
        remark += f" The first {len(shown)} of {len(variants)} variants."
    drawn = training_figure(
        [c for c in curves if c.variant in shown],
        variants=shown,
        quantity=_printed(term),
        remark=remark,
    )
    return [
        Section(
            key="training",
            figures=(drawn,) if drawn else (),
            tables=(table("training", TITLE, only_in_files(COLUMNS), curves),),
        )
    ]


TOPIC = Topic(key="training", build=_sections, files={"training": COLUMNS})

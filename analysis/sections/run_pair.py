"""Two runs side by side: their scores and costs, and the images on which only one is correct."""

from collections.abc import Sequence
from pathlib import Path

from analysis.sections.image_runs import reader
from analysis.sections.images import ImagePair, pair_on_target
from analysis.text import NO_VALUE, p_text
from core.store.record import RunRecord, read_record

PairRow = tuple[str, str, str, str]
"""What, the first run, the second run, and the second minus the first or a remark."""


def score_rows(first_dir: Path, second_dir: Path) -> list[PairRow]:
    """Scores and costs of two runs, and the exact p of McNemar's test by target.

    Raises ValueError where a folder has no record.
    """
    records = [_record(folder) for folder in (first_dir, second_dir)]
    first, second = records
    rows = [("status", first.status, second.status, "")]
    targets = dict.fromkeys(e.target for record in records for e in record.evaluations)
    for target in targets:
        values = [record.accuracy(target) for record in records]
        rows.append((f"accuracy on {target}, %", *_texts([v and 100 * v for v in values], 2)))
    rows += _image_rows(first_dir, second_dir)
    for name, digits in (("train_seconds", 2), ("images_per_second", 0), ("peak_memory_mb", 0)):
        costs = [getattr(r.cost, name) if r.cost else None for r in records]
        rows.append((name.replace("_", " "), *_texts(costs, digits)))
    return rows


def _record(run_dir: Path) -> RunRecord:
    record = read_record(run_dir)
    if record is None:
        raise ValueError(f"{run_dir} has no record: give the folder of a run that has ended")
    return record


def _texts(values: Sequence[float | None], digits: int) -> tuple[str, str, str]:
    one, two = values
    shown = [NO_VALUE if v is None else f"{v:.{digits}f}" for v in values]
    gap = "" if one is None or two is None else f"{two - one:+.{digits}f}"
    return shown[0], shown[1], gap


def _image_rows(first_dir: Path, second_dir: Path) -> list[PairRow]:
    """On how many images only one of two runs is correct, by target."""
    what = "images that only this run classifies correctly"
    one, two = (reader(folder.parent)(folder.name) for folder in (first_dir, second_dir))
    if isinstance(one, str) or isinstance(two, str):
        folder, why = (first_dir, one) if isinstance(one, str) else (second_dir, two)
        return [(what, NO_VALUE, NO_VALUE, f"n/a, {folder.name}: {why}")]
    rows = []
    for target in dict.fromkeys((*one, *two)):
        blank = ImagePair(variant="", dataset="", target=target, seed=None)
        pair = pair_on_target(blank, one, two)
        p = f"n/a: {pair.reason}" if pair.p is None else f"McNemar's exact p {p_text(pair.p)}"
        counts = (pair.only_variant, pair.only_baseline)
        first, second = (NO_VALUE if count is None else str(count) for count in counts)
        rows.append((f"{target}: {what}", first, second, p))
    return rows

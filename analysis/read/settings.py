"""The settings in which variants differ, and what two runs differ in, beside their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.read.results import Results
from analysis.sections.images import image_rows
from core.store.record import RunRecord, read_record
from core.store.settings import has_config, read_settings

NOT_SET = "-"
CELL_SETTINGS = ("experiment.dataset", "experiment.seed", "experiment.shots")
"""Settings that say which cell a run fills, not how its variant works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingTable:
    """Settings by variant: one row per setting that differs, one column per variant."""

    variants: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    source: str


def differing_settings(results: Results, study_dir: Path | None) -> SettingTable:
    """What the variants were run with, from one run of each; from their factors where no
    configuration is there.
    """
    found: dict[str, Mapping[str, str]] = {}
    if study_dir is not None and not results.runs.empty:
        finished = results.runs[results.runs["status"] == "finished"]
        first = finished.drop_duplicates("variant")
        for variant, identity in zip(first["variant"], first["identity"], strict=True):
            if has_config(study_dir / str(identity)):
                found[str(variant)] = read_settings(study_dir / str(identity))
    source = "the resolved configurations of the runs"
    if set(found) != set(results.variants):
        found, source = dict(results.factors), "the factors of the study"
    keys = sorted({key for settings in found.values() for key in settings} - set(CELL_SETTINGS))
    rows = [
        (key, tuple(found.get(v, {}).get(key, NOT_SET) for v in results.variants)) for key in keys
    ]
    differing = tuple(row for row in rows if len(set(row[1])) > 1)
    return SettingTable(variants=results.variants, rows=differing, source=source)


def score_rows(first_dir: Path, second_dir: Path) -> list[tuple[str, str, str, str]]:
    """Scores and costs of two runs side by side: what, first, second, second minus first; and the
    images that only one of them predicts correctly, with the exact p of McNemar's test.

    Raises ValueError where a folder has no record.
    """
    records = [_record(folder) for folder in (first_dir, second_dir)]
    first, second = records
    rows = [("status", first.status, second.status, "")]
    targets = dict.fromkeys(e.target for record in records for e in record.evaluations)
    for target in targets:
        values = [record.accuracy(target) for record in records]
        rows.append((f"accuracy on {target}, %", *_texts([v and 100 * v for v in values], 2)))
    rows += image_rows(first_dir, second_dir)
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
    shown = [NOT_SET if v is None else f"{v:.{digits}f}" for v in values]
    gap = "" if one is None or two is None else f"{two - one:+.{digits}f}"
    return shown[0], shown[1], gap

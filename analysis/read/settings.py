"""The settings in which variants differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.read.results import Results
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
    """The settings of the variants, from one run of each; from their factors where there is no
    configuration.
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

"""The settings in which variants differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.read.results import Results

CONFIG_NAME = "config.gin"
NOT_SET = "-"
A_CELL = ("experiment.dataset", "experiment.seed", "experiment.shots")
"""Settings that say which cell a run fills, not how its variant works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingTable:
    """Settings by variant: a row a setting that differs, a column a variant."""

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
            if settings := read_settings(study_dir / str(identity)):
                found[str(variant)] = settings
    source = "the resolved configurations of the runs"
    if set(found) != set(results.variants):
        found, source = dict(results.factors), "the factors of the study"
    keys = sorted({key for settings in found.values() for key in settings} - set(A_CELL))
    rows = [
        (key, tuple(found.get(v, {}).get(key, NOT_SET) for v in results.variants)) for key in keys
    ]
    differing = tuple(row for row in rows if len(set(row[1])) > 1)
    return SettingTable(variants=results.variants, rows=differing, source=source)


def read_settings(run_dir: Path) -> dict[str, str]:
    """The resolved configuration of a run, one binding a line; empty where there is none."""
    try:
        lines = (run_dir / CONFIG_NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition(" = ") for line in lines)
    return {key: value for key, equals, value in pairs if equals}

"""Which data have changed since a study was run, so that its plan has other runs now."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from core.config import config_from_text
from core.store.manifest import CellKey, has_manifest, read_manifest
from core.store.record import RunRecord
from experiments.run.data_inputs import DataInputs, read_data_inputs
from experiments.run.runtime import Runtime
from experiments.study.planner import Plan
from experiments.study.status import read_valid_records


def data_changes(plan: Plan, study_dir: Path, runtime: Runtime) -> list[str]:
    """One line for each dataset and file that has changed, with the first image that differs."""
    before = _earlier_records(plan, study_dir)
    found: dict[str, None] = {}
    seen: set[tuple[str, str, int | None]] = set()
    for cell in plan.runs:
        group = (cell.variant, cell.dataset, cell.shots)
        if cell.key in before and group not in seen:
            seen.add(group)
            inputs = read_data_inputs(config_from_text(cell.config_text, cell.label), runtime)
            found |= dict.fromkeys(_changes(before[cell.key], inputs, runtime))
    return list(found)


def _earlier_records(plan: Plan, study_dir: Path) -> Mapping[CellKey, RunRecord]:
    """The records of cells that the study has, but whose run is another one now."""
    if not has_manifest(study_dir):
        return {}
    with suppress(ValueError):  # a damaged manifest is the driver's to report
        now = {cell.key: cell.identity for cell in plan.cells}
        moved = {
            cell.identity: cell.key
            for cell in read_manifest(study_dir).cells
            if now.get(cell.key, cell.identity) != cell.identity
        }
        records = read_valid_records(study_dir, moved)
        return {moved[identity]: record for identity, record in records.items()}
    return {}


def _changes(old: RunRecord, inputs: DataInputs, runtime: Runtime) -> Iterator[str]:
    """A line for every dataset and file that is not what the earlier run read."""
    for key, fingerprint in inputs.fingerprints.items():
        was = old.fingerprints.get(key, fingerprint)
        if was != fingerprint:
            what = inputs.what_changed(key, was, runtime.cache_dir) or key
            yield f"since the study was run there changed: {what}"

"""The cells that a study plans, each with the record of the run that fills it."""

from dataclasses import dataclass
from pathlib import Path

from core.store.collector import many_objects
from core.store.manifest import Manifest, ManifestCell
from core.store.record import RunRecord, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult(ManifestCell):
    """A planned cell with the record of the run that fills it, None where there is none (yet).

    ``broken`` says why a record cannot be read.
    """

    record: RunRecord | None = None
    broken: str = ""


def read_cells(study_dir: Path, manifest: Manifest) -> list[CellResult]:
    """All planned cells. Raises ValueError where another cell's run fills one."""
    records: dict[str, RunRecord | None] = {}
    broken: dict[str, str] = {}
    with many_objects():
        for identity in dict.fromkeys(planned.identity for planned in manifest.cells):
            try:
                records[identity] = read_record(study_dir / identity)
            except ValueError as error:
                records[identity] = None
                broken[identity] = str(error).replace(f"{study_dir}/", "")
    cells: list[CellResult] = []
    for planned in manifest.cells:
        identity = planned.identity
        cell = CellResult(
            variant=planned.variant,
            dataset=planned.dataset,
            seed=planned.seed,
            identity=identity,
            note=planned.note,
            shots=planned.shots,
            record=records[identity],
            broken=broken.get(identity, ""),
        )
        _check_record(cell)
        cells.append(cell)
    return cells


def _check_record(cell: CellResult) -> None:
    record = cell.record
    planned = (cell.identity, cell.dataset, cell.seed)
    if record is not None and (record.identity, record.dataset, record.seed) != planned:
        raise ValueError(
            f"manifest: the cell {cell.label} points to run {cell.identity}, whose record says "
            f"{record.dataset!r}, seed {record.seed}; manifest and runs do not belong together"
        )

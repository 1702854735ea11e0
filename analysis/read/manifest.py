"""The manifest of a study folder and the cells it plans, each with the record that fills it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.store.record import RunRecord, read_record
from core.suggestions import did_you_mean

MANIFEST_NAME = "study.json"
MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A planned cell with the record of the run that fills it, None where there is none (yet).

    ``shots`` is its point of a few-shot curve, None in a study without one.
    """

    variant: str
    dataset: str
    seed: int | None
    identity: str
    note: str
    record: RunRecord | None
    broken: str = ""
    shots: int | None = None


def read_manifest(path: Path) -> Mapping[str, Any]:
    """The manifest, checked. Raises ValueError where it is missing, broken or inconsistent."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent}: a study folder needs {MANIFEST_NAME}, found none; "
            "give a folder that the grid command made, or a tidy CSV file"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); run the grid command again") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != MANIFEST_VERSION:
        raise ValueError(
            f"{path}: this version reads manifests of schema {MANIFEST_VERSION}, got {version!r}; "
            "use the version that wrote it"
        )
    needed = ("study", "baseline", "datasets", "variants", "cells")
    if absent := [key for key in needed if not raw.get(key)]:
        raise ValueError(f"{path}: a manifest needs {', '.join(needed)}, lacks {', '.join(absent)}")
    names = [v["name"] for v in raw["variants"]]
    check_known("baseline", raw["baseline"], names)
    for factor, levels in raw.get("factors", {}).items():
        if not isinstance(levels, list) or len(levels) < 2:
            raise ValueError(f"{path}: a factor has two or more levels, {factor} has {levels!r}")
    for reference in raw.get("references", ()):
        check_known("reference", reference, names)
    return dict(raw)


def check_known(role: str, name: str, names: Iterable[str]) -> None:
    """Raise ValueError with a suggestion where ``name`` is none of ``names``."""
    known = list(names)
    if name in known:
        return
    hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
    kind = "metrics" if role == "metric" else "variants"
    raise ValueError(f"{role} must be one of the {kind}, got {name!r}{hint}")


def read_cells(study_dir: Path, manifest: Mapping[str, Any]) -> list[Cell]:
    """All planned cells. Raises ValueError where a cell is listed twice or another run fills it."""
    records: dict[str, RunRecord | None] = {}
    broken: dict[str, str] = {}
    cells: list[Cell] = []
    names, datasets = [v["name"] for v in manifest["variants"]], manifest["datasets"]
    for raw in manifest["cells"]:
        identity = raw["identity"]
        if identity not in records:
            try:
                records[identity] = read_record(study_dir / identity)
            except ValueError as error:
                records[identity] = None
                broken[identity] = str(error).replace(f"{study_dir}/", "")
        cell = Cell(
            variant=raw["variant"],
            dataset=raw["dataset"],
            seed=raw["seed"],
            identity=identity,
            note=raw.get("note", ""),
            record=records[identity],
            broken=broken.get(identity, ""),
            shots=raw.get("shots"),
        )
        _check_cell(cell, names, datasets)
        cells.append(cell)
    keys = [(c.variant, c.dataset, c.shots, c.seed) for c in cells]
    if (
        double := sorted({str(k) for k in keys if keys.count(k) > 1})
        if len(set(keys)) < len(keys)
        else []
    ):
        raise ValueError(f"{study_dir}: a manifest lists a cell once, these appear twice: {double}")
    return cells


def _check_cell(cell: Cell, variants: Sequence[str], datasets: Sequence[str]) -> None:
    where = f"cell {cell.variant!r}, {cell.dataset!r}, seed {cell.seed}"
    if cell.variant not in variants or cell.dataset not in datasets:
        raise ValueError(
            f"manifest: {where} names a variant or dataset that the manifest does not list"
        )
    record = cell.record
    told = (cell.identity, cell.dataset, cell.seed)
    if record is not None and (record.identity, record.dataset, record.seed) != told:
        raise ValueError(
            f"manifest: {where} points to run {cell.identity}, whose record says "
            f"{record.dataset!r}, seed {record.seed}; manifest and runs do not belong together"
        )

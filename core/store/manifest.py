"""``study.json``, the manifest of a study: its variants, datasets, seeds and cells.

It is written before the first run. A cell is one planned run; cells of equal identity share a run,
whose folder is named by the identity.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from core.store.documents import read_document, write_document
from core.store.names import MANIFEST_NAME
from core.suggestions import did_you_mean

MANIFEST_VERSION = 1
MAX_SEED = 2**64 - 1
"""Seeds are kept in 64 bits, exactly, wherever they are read."""
REWRITE = "rerun the grid to rewrite it"
REQUIRED = ("study", "baseline", "datasets", "variants", "cells")


class CellKey(NamedTuple):
    """What distinguishes the cells of a study.

    ``seed`` is None if the seed has no effect, ``shots`` in a study without a few-shot curve.
    """

    variant: str
    dataset: str
    shots: int | None
    seed: int | None

    @property
    def label(self) -> str:
        """A readable name of the cell."""
        shots = "" if self.shots is None else f", shots {self.shots}"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.variant} on {self.dataset}{shots}{seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestCell:
    """A cell of a study and the identity of its run.

    ``seed`` is None if the seed has no effect, ``shots`` in a study without a few-shot curve.
    ``note`` is empty, or names the cell that this one repeats.
    """

    variant: str
    dataset: str
    seed: int | None
    identity: str
    note: str = ""
    shots: int | None = None

    @property
    def key(self) -> CellKey:
        """What distinguishes this cell from the others of its study."""
        return CellKey(self.variant, self.dataset, self.shots, self.seed)

    @property
    def label(self) -> str:
        """A readable name of the cell."""
        return self.key.label

    def to_dict(self) -> dict[str, Any]:
        """The cell as plain data; ``shots`` only where the study has a few-shot curve."""
        cell = {
            "variant": self.variant,
            "dataset": self.dataset,
            "seed": self.seed,
            "identity": self.identity,
            "note": self.note,
        }
        return cell if self.shots is None else {**cell, "shots": self.shots}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestVariant:
    """A variant's name and the level of each parameter that it binds, as text."""

    name: str
    factors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A study as planned. ``factors`` has the levels of each factor, the default first."""

    study: str
    baseline: str
    datasets: tuple[str, ...]
    variants: tuple[ManifestVariant, ...]
    cells: tuple[ManifestCell, ...]
    references: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def variant_names(self) -> tuple[str, ...]:
        return tuple(variant.name for variant in self.variants)

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain data, in the order of the file."""
        return {
            "study": self.study,
            "baseline": self.baseline,
            "references": list(self.references),
            "datasets": list(self.datasets),
            "seeds": list(self.seeds),
            "factors": {key: list(levels) for key, levels in self.factors.items()},
            "variants": [{"name": v.name, "factors": dict(v.factors)} for v in self.variants],
            "cells": [cell.to_dict() for cell in self.cells],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestChange:
    """How many cells a changed plan adds to and removes from an existing study."""

    added: int
    removed: int

    def __str__(self) -> str:
        return f"the grid has changed: {self.added} cells are new, {self.removed} were removed"


def has_manifest(study_dir: Path) -> bool:
    """Whether a folder is a study folder."""
    return (study_dir / MANIFEST_NAME).is_file()


def write_manifest(study_dir: Path, manifest: Manifest) -> None:
    """Write ``study.json``, atomically."""
    write_document(study_dir / MANIFEST_NAME, MANIFEST_VERSION, manifest.to_dict())


def read_manifest(study_dir: Path) -> Manifest:
    """The manifest of a study folder.

    Raises ValueError where it is missing, damaged, of another version or contradicts itself.
    """
    path = study_dir / MANIFEST_NAME
    try:
        raw = read_document(path, MANIFEST_VERSION, remedy=REWRITE)
    except FileNotFoundError:
        raise ValueError(
            f"{study_dir} is not a study folder: it has no {MANIFEST_NAME}; give a folder "
            "written by the grid command"
        ) from None
    if absent := [key for key in REQUIRED if not raw.get(key)]:
        raise ValueError(
            f"{path}: a manifest needs {', '.join(REQUIRED)}, but lacks {', '.join(absent)}: "
            f"{REWRITE}"
        )
    try:
        manifest = Manifest(
            study=str(raw["study"]),
            baseline=raw["baseline"],
            references=tuple(raw.get("references", ())),
            datasets=tuple(raw["datasets"]),
            seeds=tuple(raw.get("seeds", ())),
            factors={key: _levels(path, key, v) for key, v in raw.get("factors", {}).items()},
            variants=tuple(_variant(variant) for variant in raw["variants"]),
            cells=tuple(ManifestCell(**cell) for cell in raw["cells"]),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {REWRITE}") from None
    _check(path, manifest)
    return manifest


def change_of(study_dir: Path, manifest: Manifest) -> ManifestChange | None:
    """How a manifest differs from that of the folder; None if there is no relevant difference."""
    if not has_manifest(study_dir):
        return None
    before = {(cell.key, cell.identity) for cell in read_manifest(study_dir).cells}
    after = {(cell.key, cell.identity) for cell in manifest.cells}
    if before == after:
        return None
    return ManifestChange(added=len(after - before), removed=len(before - after))


def _levels(path: Path, factor: str, levels: object) -> tuple[str, ...]:
    if not isinstance(levels, list) or len(levels) < 2:
        raise ValueError(f"{path}: a factor needs at least two levels, {factor} has {levels!r}")
    return tuple(levels)


def _variant(raw: Mapping[str, Any]) -> ManifestVariant:
    factors = {str(key): str(level) for key, level in raw.get("factors", {}).items()}
    return ManifestVariant(name=raw["name"], factors=factors)


def _check(path: Path, manifest: Manifest) -> None:
    _check_types(path, manifest)
    names, datasets = set(manifest.variant_names), set(manifest.datasets)
    check_known("baseline", manifest.baseline, manifest.variant_names)
    for reference in manifest.references:
        check_known("reference", reference, manifest.variant_names)
    for cell in manifest.cells:
        if cell.variant not in names or cell.dataset not in datasets:
            raise ValueError(
                f"{path}: the cell {cell.label} names a variant or dataset that the manifest does "
                "not list"
            )
    counts = Counter(cell.key for cell in manifest.cells)
    if repeated := [key.label for key, count in counts.items() if count > 1]:
        raise ValueError(
            f"{path}: a manifest must list a cell once, but repeats {'; '.join(repeated)}"
        )


def _check_types(path: Path, manifest: Manifest) -> None:
    """Raise ValueError for a value of another type, and for a run outside the study folder."""
    texts = [manifest.baseline, *manifest.references, *manifest.datasets, *manifest.variant_names]
    for cell in manifest.cells:
        texts += [cell.variant, cell.dataset, cell.identity, cell.note]
        if Path(str(cell.identity)).name != cell.identity or str(cell.identity).startswith("."):
            raise ValueError(
                f"{path}: the identity {cell.identity!r} of {cell.label} is not the name of a run "
                f"folder: {REWRITE}"
            )
    numbers = [*manifest.seeds, *(n for c in manifest.cells for n in (c.seed, c.shots))]
    wrong: list[object] = [text for text in texts if not isinstance(text, str)]
    wrong += [n for n in numbers if n is not None and (type(n) is not int or n < 0)]
    if wrong:
        raise ValueError(
            f"{path} is damaged ({wrong[0]!r} is neither a name nor a whole number where the "
            f"manifest has one): {REWRITE}"
        )


def check_known(role: str, name: str, names: Iterable[str]) -> None:
    """Raise ValueError with a suggestion if ``name`` is not among ``names``."""
    known = list(names)
    if name in known:
        return
    hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
    kind = "metrics" if role == "metric" else "variants"
    raise ValueError(f"{role} must be one of the {kind}, got {name!r}{hint}")

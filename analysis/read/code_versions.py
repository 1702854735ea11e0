"""Which runs of a study were made by the same code, from their records alone.

Two runs are of the same code where every class that both plug in has the same source, and so has
what every run passes through. Other commits do not matter.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from analysis.read.cells import CellResult
from core.store.code import RunCode, class_names, differences, names_of, read_code

DIGITS = 12


@dataclass(frozen=True, slots=True)
class CodeVersions:
    """The code of every cell, "" where its record says nothing of it, and why it is not that of
    most cells, "" where it is.
    """

    versions: tuple[str, ...]
    reasons: tuple[str, ...]


def code_versions(study_dir: Path, cells: Sequence[CellResult], baseline: str) -> CodeVersions:
    """Compare the code of cells. Where two sources of a class are even, the baseline's counts.

    Cells whose records are of versions that recorded no code are known by their commit, if no
    record has more than that.
    """
    recorded = [dict(cell.record.code) if cell.record else {} for cell in cells]
    if not any(recorded):
        return CodeVersions(tuple(map(_commit, cells)), ("",) * len(cells))
    used = _most_common(cells, recorded, baseline)
    same = [all(used[key] == text for key, text in code.items()) for code in recorded]
    peers = [cell for cell, code, kept in zip(cells, recorded, same, strict=True) if code and kept]
    return CodeVersions(
        versions=tuple(
            _digest(used if kept else code) if code else ""
            for code, kept in zip(recorded, same, strict=True)
        ),
        reasons=tuple(
            "" if kept else _reason(study_dir, cell, peers, used)
            for cell, kept in zip(cells, same, strict=True)
        ),
    )


def num_unrecorded(cells: Sequence[CellResult]) -> int:
    """How many cells have no code in their record, where others have."""
    without = [cell for cell in cells if cell.record is not None and not cell.record.code]
    return len(without) if len(without) < len(cells) else 0


def _most_common(
    cells: Sequence[CellResult], recorded: Sequence[Mapping[str, str]], baseline: str
) -> dict[str, str]:
    """The source of every class that most cells have, among those that agree in the classes before
    it; the classes that most cells plug in come first.
    """
    plugged = Counter(key for code in recorded for key in code)
    left = list(zip(cells, recorded, strict=True))
    used: dict[str, str] = {}
    for key in sorted(plugged, key=lambda key: (-plugged[key], key)):
        found = Counter(code[key] for _, code in left if key in code)
        own = {code.get(key) for cell, code in left if cell.variant == baseline}
        used[key] = max(found, key=lambda text: (found[text], text in own, text), default="")
        left = [(cell, code) for cell, code in left if code.get(key, used[key]) == used[key]]
    return used


def _reason(
    study_dir: Path, cell: CellResult, peers: Sequence[CellResult], used: Mapping[str, str]
) -> str:
    assert cell.record is not None
    changed = [key for key, text in cell.record.code.items() if used[key] != text]
    where = names_of(_differences(study_dir, cell, peers))
    where = where or f"the code of {class_names(changed)}"
    return (
        f"made by other code than most runs ({where}); run the grid again, which repeats the runs "
        "of older code, or report with --allow-mixed"
    )


def _differences(
    study_dir: Path, cell: CellResult, peers: Sequence[CellResult]
) -> list[tuple[str, str]]:
    """The definitions that differ between a cell and one that plugs in the same classes, or else
    those that differ among what it has in common with any.
    """
    own = _code(study_dir, cell)
    if own is None or not peers:
        return []
    same = [peer for peer in peers if _classes(peer) == _classes(cell)]
    other = _code(study_dir, (same or peers)[0])
    if other is None:
        return []
    found = differences(other.files, own.files)
    if same:
        return found
    return [(file, name) for file, name in found if name in other.files.get(file, ())
            and name in own.files.get(file, ())]  # fmt: skip


def _classes(cell: CellResult) -> frozenset[str]:
    return frozenset(cell.record.code if cell.record else ())


def _code(study_dir: Path, cell: CellResult) -> RunCode | None:
    with suppress(ValueError):  # a damaged file explains nothing
        return read_code(study_dir / cell.identity)
    return None


def _commit(cell: CellResult) -> str:
    environment = cell.record.environment if cell.record else {}
    commit = str(environment.get("commit") or "")
    return commit + (" with changes" if commit and environment.get("dirty") else "")


def _digest(code: Mapping[str, str]) -> str:
    text = "\n".join(f"{key} {code[key]}" for key in sorted(code))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

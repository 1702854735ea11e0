"""Output folders of CoOp and other programs built on Dassl: one ``log.txt`` per run.

A log prints its configuration, so that the layout of the folders does not matter: the trainer is
the variant, and accuracies on base and new classes of one run stand in two logs of one seed.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from analysis.read.csv_text import RawTable

LOG_NAME = "log.txt"
KEYS = ("variant", "dataset", "seed", "shots")
SUBSETS = {"all": "accuracy", "base": "base", "new": "new"}
RESULT = re.compile(r"^=> result\s*$", re.MULTILINE)
COUNT = re.compile(r"^\* (total|correct): ([\d,]+)\s*$", re.MULTILINE)
TRAINED = re.compile(r"^epoch \[\d+/\d+\]", re.MULTILINE)
FINISHED = re.compile(r"^Finish(?:ed)? training", re.MULTILINE | re.IGNORECASE)
SETTING = r"^{section}:\n(?:[ \t]+.*\n)*?[ ]{{2}}{name}: *(.*)$"


class _Log(NamedTuple):
    key: tuple[str, str, str, str]
    metric: str
    accuracy: str
    path: Path


def is_output(folder: Path) -> bool:
    """Whether there is a log of Dassl below a folder."""
    return any(_is_log(path) for path in folder.rglob(LOG_NAME))


def _is_log(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return "** Arguments **" in file.read(4096)


def read_output(folder: Path) -> RawTable:
    """One row per trainer, dataset and seed. Raises ValueError where two logs are the same run."""
    logs, notes = list[_Log](), []
    for path in sorted(folder.rglob(LOG_NAME)):
        if not _is_log(path):
            continue
        found = _read(path)
        if found is None:
            notes.append(f"{path.relative_to(folder)} has no final result, and is left out")
        else:
            logs.append(found)
    if not logs:
        raise ValueError(f"{folder}: none of the logs has a final result; let the runs finish")
    metrics = [m for m in ("base", "new", "accuracy") if any(log.metric == m for log in logs)]
    rows = list(_rows(logs, metrics))
    return RawTable(
        columns=(*KEYS, *metrics),
        rows=tuple(rows),
        lines=tuple(range(1, len(rows) + 1)),
        notes=("the final results of logs of Dassl, exact from correct and total", *notes),
    )


def _rows(logs: list[_Log], metrics: list[str]) -> Iterator[tuple[str, ...]]:
    cells: dict[tuple[str, ...], dict[str, _Log]] = {}
    for log in logs:
        others = cells.setdefault(log.key, {})
        if log.metric in others:
            raise ValueError(
                f"{log.path} and {others[log.metric].path} are the same run: "
                f"{', '.join(filter(None, log.key))}, {log.metric}; report one of their folders, "
                "or each with --as"
            )
        others[log.metric] = log
    for key, found in cells.items():
        yield (*key, *(found[m].accuracy if m in found else "" for m in metrics))


def _read(path: Path) -> _Log | None:
    """The last result of a log; None where training did not end, or nothing was evaluated."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    if TRAINED.search(text):
        ends = [match.end() for match in FINISHED.finditer(text)]
        text_of_result = text[ends[-1] :] if ends else ""
    else:
        text_of_result = text
    results = [match.end() for match in RESULT.finditer(text_of_result)]
    counts = dict(COUNT.findall(text_of_result[results[-1] :])) if results else {}
    if counts.keys() != {"total", "correct"}:
        return None
    correct, total = (int(counts[name].replace(",", "")) for name in ("correct", "total"))
    subset = _setting(text, "DATASET", "SUBSAMPLE_CLASSES") or "all"
    if subset not in SUBSETS or total == 0:
        raise ValueError(f"{path}: classes must be all, base or new, got {subset!r}")
    shots = _setting(text, "DATASET", "NUM_SHOTS")
    seed = re.search(r"^SEED: *(-?\d+)$", text, re.MULTILINE)
    key = (
        _setting(text, "TRAINER", "NAME") or "unnamed trainer",
        _setting(text, "DATASET", "NAME") or "unnamed dataset",
        seed[1] if seed and int(seed[1]) >= 0 else "",
        shots if int(shots or 0) > 0 else "",
    )
    return _Log(key, SUBSETS[subset], repr(correct / total), path)


def _setting(text: str, section: str, name: str) -> str:
    """A setting of the configuration as the log prints it, "" where it is not printed."""
    match = re.search(SETTING.format(section=section, name=name), text, re.MULTILINE)
    return match[1].strip() if match else ""

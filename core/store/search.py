"""The files of a search: its definition, its trials, their importances and its result.

The table of trials is derived from the ledger, which the search package reads and writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from core.store.documents import read_document, write_document
from core.store.names import DEFINITION_NAME, IMPORTANCES_NAME, RESULT_NAME, TRIALS_NAME

SEARCH_VERSION = 1
REWRITE = "rerun the search to rewrite it"

TrialState = Literal["complete", "pruned", "diverged", "failed"]
"""How a trial ended."""
TRIAL_STATES: tuple[TrialState, ...] = ("complete", "pruned", "diverged", "failed")
RUNNING: Literal["running"] = "running"
"""The state of a trial that has not ended."""

COST_OBJECTIVES = ("train_seconds", "trainable_parameters")
"""Objectives that are costs, to be minimized; the others are accuracies."""

DEFAULT, TUNED, CONTROL = "default", "tuned", "random search"
"""What the variants of the final study are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial: its settings as text, and its outcome. ``values`` are in objective order."""

    number: int
    params: Mapping[str, str]
    state: TrialState | Literal["running"]
    values: tuple[float, ...] = ()
    message: str = ""
    num_runs: int = 0

    @property
    def complete(self) -> bool:
        """Whether every run of the trial finished."""
        return self.state == "complete"


def is_search(folder: Path) -> bool:
    """Whether a folder is a search folder."""
    return (folder / DEFINITION_NAME).exists()


def write_definition(search_dir: Path, definition: Mapping[str, Any]) -> None:
    """Write ``search.json``: everything that determines the trials."""
    write_document(search_dir / DEFINITION_NAME, SEARCH_VERSION, definition)


def read_definition(search_dir: Path, *, check: bool = True) -> dict[str, Any]:
    """The definition of a search. Raises ValueError where none can be read.

    ``check`` off, a definition that was edited is read, for a list of what differs.
    """
    remedy, path = "restore it, or search under another name", search_dir / DEFINITION_NAME
    try:
        return read_document(path, SEARCH_VERSION, remedy=remedy, check=check)
    except FileNotFoundError:
        raise ValueError(
            f"{search_dir} is not a search folder: it has no {DEFINITION_NAME}; give a folder "
            "written by the search command"
        ) from None


def write_trials(search_dir: Path, trials: Sequence[Trial], *, planned: int) -> None:
    """Write ``trials.json``; ``planned`` is the planned number of trials."""
    document = {"planned": planned, "trials": [asdict(trial) for trial in trials]}
    write_document(search_dir / TRIALS_NAME, SEARCH_VERSION, document)


def read_trials(search_dir: Path) -> tuple[Trial, ...]:
    """The trials of a search in order; empty before the first call of the search."""
    found = _read(search_dir / TRIALS_NAME)
    rows = found["trials"] if found else ()
    return tuple(Trial(**{**row, "values": tuple(row["values"])}) for row in rows)


def planned_trials(search_dir: Path) -> int | None:
    """The number of trials that the last call of a search requested; None before any call."""
    planned = (_read(search_dir / TRIALS_NAME) or {}).get("planned")
    return planned if isinstance(planned, int) else None


def write_importances(search_dir: Path, importances: Mapping[str, Any]) -> None:
    """Write ``importances.json``: how much each setting mattered."""
    write_document(search_dir / IMPORTANCES_NAME, SEARCH_VERSION, importances)


def read_importances(search_dir: Path) -> Mapping[str, Any] | None:
    """The importances of a search, None before there are any."""
    return _read(search_dir / IMPORTANCES_NAME)


def write_result(search_dir: Path, result: Mapping[str, Any]) -> None:
    """Write ``result.json``: the scores at search time beside those on test images."""
    write_document(search_dir / RESULT_NAME, SEARCH_VERSION, result)


def read_result(search_dir: Path) -> Mapping[str, Any] | None:
    """The result of a search; None before its winner was evaluated on test images."""
    return _read(search_dir / RESULT_NAME)


def has_result(search_dir: Path) -> bool:
    """Whether the winner was evaluated on test images, which closes the search."""
    return (search_dir / RESULT_NAME).exists()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_document(path, SEARCH_VERSION, remedy=REWRITE)
    except FileNotFoundError:
        return None

"""The files of a search: its definition, its trials, their importances and its result.

The ledger, from which the trials are a table for readers, is read and written where the search
proceeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from core.store.documents import read_document, write_document
from core.store.names import DEFINITION_NAME, IMPORTANCES_NAME, RESULT_NAME, TRIALS_NAME

SEARCH_VERSION = 1
REWRITE = "run the search again to rewrite it"

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
    """One trial: its settings as text, and what it came to. ``values`` follow the objectives."""

    number: int
    params: Mapping[str, str]
    state: TrialState | Literal["running"]
    values: tuple[float, ...] = ()
    message: str = ""
    num_runs: int = 0

    @property
    def complete(self) -> bool:
        """Whether every run of it finished."""
        return self.state == "complete"


def is_search(folder: Path) -> bool:
    """Whether a folder is that of a search; otherwise it may be a study's."""
    return (folder / DEFINITION_NAME).exists()


def write_definition(search_dir: Path, definition: Mapping[str, Any]) -> None:
    """Write ``search.json``: everything that the trials follow from."""
    write_document(search_dir / DEFINITION_NAME, SEARCH_VERSION, definition)


def read_definition(search_dir: Path) -> dict[str, Any]:
    """The definition of a search. Raises ValueError where none can be read."""
    remedy = "restore it, or search under another name"
    try:
        return read_document(search_dir / DEFINITION_NAME, SEARCH_VERSION, remedy=remedy)
    except FileNotFoundError:
        raise ValueError(
            f"{search_dir} is not a search folder: it has no {DEFINITION_NAME}; give a folder that "
            "the search command made"
        ) from None


def write_trials(search_dir: Path, trials: Sequence[Trial], *, planned: int) -> None:
    """Write ``trials.json``; ``planned`` is how many trials there are to be."""
    document = {"planned": planned, "trials": [asdict(trial) for trial in trials]}
    write_document(search_dir / TRIALS_NAME, SEARCH_VERSION, document)


def read_trials(search_dir: Path) -> tuple[Trial, ...]:
    """The trials of a search in order, none before the first call of the search has begun."""
    found = _read(search_dir / TRIALS_NAME)
    rows = found["trials"] if found else ()
    return tuple(Trial(**{**row, "values": tuple(row["values"])}) for row in rows)


def planned_trials(search_dir: Path) -> int | None:
    """How many trials the last call of a search asked for; None before a call has said so."""
    planned = (_read(search_dir / TRIALS_NAME) or {}).get("planned")
    return planned if isinstance(planned, int) else None


def write_importances(search_dir: Path, importances: Mapping[str, Any]) -> None:
    """Write ``importances.json``: how much each setting mattered."""
    write_document(search_dir / IMPORTANCES_NAME, SEARCH_VERSION, importances)


def read_importances(search_dir: Path) -> Mapping[str, Any] | None:
    """The importances of a search, None before there are any."""
    return _read(search_dir / IMPORTANCES_NAME)


def write_result(search_dir: Path, result: Mapping[str, Any]) -> None:
    """Write ``result.json``: what the search promised beside what test images say of it."""
    write_document(search_dir / RESULT_NAME, SEARCH_VERSION, result)


def read_result(search_dir: Path) -> Mapping[str, Any] | None:
    """The result of a search, None before its winner was judged on test images."""
    return _read(search_dir / RESULT_NAME)


def has_result(search_dir: Path) -> bool:
    """Whether the winner was judged on test images, after which a search cannot be made longer."""
    return (search_dir / RESULT_NAME).exists()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_document(path, SEARCH_VERSION, remedy=REWRITE)
    except FileNotFoundError:
        return None

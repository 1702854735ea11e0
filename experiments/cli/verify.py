"""The ``verify`` command: replay every set of a folder and show how far each tensor is off."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import experiments.verify  # noqa: F401  (registers the replays)
from experiments.cli.console import table
from experiments.verify.vectors import Outcome, find_sets, verify_set


def verify_folder(folder: Path) -> list[Outcome]:
    """Outcomes of all sets in a folder."""
    return [verify_set(path) for path in find_sets(folder)]


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """An outcome for JSON; infinite differences are null."""
    return {
        "name": outcome.name,
        "status": outcome.status,
        "problem": outcome.problem,
        "tensors": {
            d.name: {
                "difference": d.difference if d.difference != float("inf") else None,
                "allowed": d.allowed,
                "ok": d.ok,
            }
            for d in outcome.differences
        },
    }


def print_outcomes(outcomes: Sequence[Outcome], screen: Console) -> None:
    """A table a set with the largest difference of every tensor, then one line a set."""
    for outcome in outcomes:
        if outcome.differences:
            rows = [
                (d.name, f"{d.difference:.2e}", f"{d.allowed:.2e}", "ok" if d.ok else "DIFFERS")
                for d in outcome.differences
            ]
            columns = ["tensor", "largest difference", "allowed", ""]
            screen.print(table(outcome.name, columns, rows, numbers=3))
    for outcome in outcomes:
        bad = sum(not d.ok for d in outcome.differences)
        worst = max((d.difference for d in outcome.differences), default=0.0)
        detail = outcome.problem
        if outcome.differences:
            count = len(outcome.differences)
            detail = f"{count - bad} of {count} tensors match, largest difference {worst:.1e}"
        screen.print(f"{outcome.name}: {outcome.status}  {detail}".rstrip(), markup=False)

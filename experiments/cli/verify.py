"""``verify``: replay reference vectors and show the deviation of each tensor."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli.console import console, print_json, table
from experiments.cli.options import Json


def verify_command(
    vectors: Annotated[Path, typer.Argument(help="Folder of NAME.json + NAME.safetensors")],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="NAME of a set to check; repeatable")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay reference vectors of published implementations; every tensor must match."""
    from experiments.verify.verify import find_sets, other_files, set_name, verify_set

    outcomes = [
        verify_set(path, set_name(vectors, path)) for path in find_sets(vectors, only or ())
    ]
    if as_json:
        print_json([_outcome_dict(outcome) for outcome in outcomes])
    else:
        _print_outcomes(outcomes)
    for path in other_files(vectors):
        print(f"{path.relative_to(vectors)} is not a set of vectors: not checked", file=sys.stderr)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)


def _outcome_dict(outcome: Any) -> dict[str, Any]:
    """An ``Outcome`` for JSON; infinite differences are null."""
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


def _print_outcomes(outcomes: Sequence[Any]) -> None:
    """One table per set with the largest difference of every tensor, then one line per set."""
    screen = console()
    for outcome in outcomes:
        if outcome.differences:
            rows = [
                (d.name, f"{d.difference:.2e}", f"{d.allowed:.2e}", "ok" if d.ok else "DIFFERS")
                for d in outcome.differences
            ]
            columns = ["tensor", "largest difference", "allowed", ""]
            screen.print(table(outcome.name, columns, rows, numbers=3))
    for outcome in outcomes:
        detail = outcome.problem
        if outcome.differences:
            count = len(outcome.differences)
            matching = sum(d.ok for d in outcome.differences)
            worst = max(d.difference for d in outcome.differences)
            compared = f"{matching} of {count} tensors match, largest difference {worst:.1e}"
            detail = "; ".join(filter(None, (compared, outcome.problem)))
        screen.print(f"{outcome.name}: {outcome.status}  {detail}".rstrip(), markup=False)

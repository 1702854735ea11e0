"""Printing the status of a search."""

from collections.abc import Mapping
from typing import Any

from core.store.search import COST_OBJECTIVES
from experiments.cli.console import console, percent, table


def print_search_status(found: Mapping[str, Any]) -> None:
    """Print the status of a search as a table, followed by its problems."""
    from experiments.run.stale import runs_of

    screen = console()
    screen.print(table(f"search {found['study']}", ["item", "value"], _rows(found)))
    for problem in found["problems"]:
        line = f"{problem['state']}: trial {problem['trial']}: {problem['message']}"
        screen.print(line, markup=False)
    for change in found["changes"]:
        screen.print(
            f"the code changed since {runs_of(change['runs'])}: {change['change']}", markup=False
        )


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    planned, best = found["planned"], found["best"]
    of = "" if planned is None else f" of {planned}"
    rounds = "none, asynchronous"
    if found["mode"] == "rounds":
        size = found["round_size"]
        of_rounds = "" if planned is None else f" of {-(-planned // size)}"
        rounds = f"{-(-found['told'] // size)}{of_rounds} ended, {size} trials each"
    return [
        ("trials", f"{found['told']}{of} ended: {_listed(found['trials'])}"),
        ("running", ", ".join(map(str, found["under_way"])) or "none"),
        ("rounds", rounds),
        ("runs", _listed(found["runs"])),
        ("best so far", "no complete trial yet" if best is None else _scores(best)),
        *(() if best is None else best["params"].items()),
        ("evaluated on test images", "yes" if found["judged"] else "not yet"),
        ("driver", found["holder"] or "none"),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _scores(best: Mapping[str, Any]) -> str:
    shown = (
        f"{name} {percent(value) if name not in COST_OBJECTIVES else f'{value:.6g}'}"
        for name, value in best["values"].items()
    )
    return f"trial {best['trial']}: {', '.join(shown)}"

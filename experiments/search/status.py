"""How far a search is, from its folder alone, and why no run of it is made a second time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from core.store.names import CONFIG_NAME
from core.store.record import read_run, record_paths
from core.store.search import has_result, is_search, planned_trials, read_definition
from experiments.cli.console import console, percent, table
from experiments.search.ledger import Asked, Event, Told, read_events
from experiments.search.settings import AIMS
from experiments.search.trials import best_of
from experiments.study.lock import living_holder

__all__ = ["is_search", "print_search_status", "refuse_rerun", "search_status"]

STATES = ("complete", "pruned", "diverged", "failed")
RECORD_STATES = ("finished", "failed", "diverged", "damaged")


def search_status(search_dir: Path) -> dict[str, Any]:
    """Trials by what became of them, rounds, runs, the best so far, and who works on it.

    ``planned`` is None where no call has said yet how many trials there are to be.
    """
    definition, events = read_definition(search_dir), read_events(search_dir)
    asked, told = _by_number(events, Asked), _by_number(events, Told)
    best = best_of(told.values())
    holder = living_holder(search_dir)
    return {
        "study": definition["study"],
        "objectives": definition["objectives"],
        "mode": definition["mode"],
        "round_size": definition["round_size"],
        "planned": planned_trials(search_dir),
        "asked": len(asked),
        "told": len(told),
        "trials": _counts(STATES, [event.state for event in told.values()]),
        "under_way": sorted(asked.keys() - told.keys()),
        "runs": _counts(RECORD_STATES, _record_states(search_dir)),
        "best": None if best is None else _best(best, asked[best.trial], definition),
        "judged": has_result(search_dir),
        "problems": [
            {"trial": event.trial, "state": event.state, "message": event.message}
            for event in told.values()
            if event.state in ("failed", "diverged")
        ],
        "holder": None if holder is None else str(holder),
    }


def _by_number(events: Sequence[Event], kind: type) -> dict[int, Any]:
    return {event.trial: event for event in events if isinstance(event, kind)}


def _counts(names: Sequence[str], found: Sequence[str]) -> dict[str, int]:
    counter = Counter(found)
    return {name: counter[name] for name in names}


def _record_states(search_dir: Path) -> list[str]:
    states = []
    for path in record_paths(search_dir):
        states.append("damaged")
        with suppress(ValueError):
            if (record := read_run(search_dir, path.parent.name)) is not None:
                states[-1] = record.status
    return states


def _best(told: Told, asked: Asked, definition: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(zip(definition["objectives"], told.values, strict=True))
    return {"trial": told.trial, "values": values, "params": dict(asked.params)}


def print_search_status(found: Mapping[str, Any]) -> None:
    """The status of a search as a table with its problems."""
    screen = console()
    screen.print(table(f"search {found['study']}", ["what", "value"], _rows(found)))
    for problem in found["problems"]:
        line = f"{problem['state']}: trial {problem['trial']}: {problem['message']}"
        screen.print(line, markup=False)


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    planned, best = found["planned"], found["best"]
    of = "" if planned is None else f" of {planned}"
    rounds = "none, asynchronous"
    if found["mode"] == "rounds":
        size = found["round_size"]
        all_ = "" if planned is None else f" of {-(-planned // size)}"
        rounds = f"{-(-found['told'] // size)}{all_} ended, {size} trials each"
    rows = [
        ("trials", f"{found['told']}{of} ended: {_listed(found['trials'])}"),
        ("under way", ", ".join(map(str, found["under_way"])) or "none"),
        ("rounds", rounds),
        ("runs", _listed(found["runs"])),
        ("best so far", "no trial is complete" if best is None else _scores(best)),
        *(() if best is None else best["params"].items()),
        ("judged on test images", "yes" if found["judged"] else "not yet"),
        ("driver", found["holder"] or "none"),
    ]
    return rows


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _scores(best: Mapping[str, Any]) -> str:
    shown = (
        f"{name} {percent(value) if AIMS[name].maximized else f'{value:.6g}'}"
        for name, value in best["values"].items()
    )
    return f"trial {best['trial']}: {', '.join(shown)}"


def refuse_rerun(search_dir: Path, wanted: str) -> NoReturn:
    """Say why a trial or run of a search is not made again, and what to do instead.

    Raises ValueError, always: later trials follow from what the earlier ones came to.
    """
    events = read_events(search_dir)
    asked, told = _by_number(events, Asked), _by_number(events, Told)
    runs = {run: number for number, event in asked.items() for run in event.runs}
    found = {n for n in asked if str(n) == wanted.removeprefix("trial").strip()}
    found = found or {number for run, number in runs.items() if run.startswith(wanted)}
    if len(found) != 1:
        raise ValueError(
            f"{len(found) or 'no'} trials of {search_dir} are or have a run {wanted!r}: name one "
            f"of 0 to {len(asked) - 1}, or a run in full"
        )
    (number,) = found
    if number not in told:
        raise ValueError(
            f"trial {number} of {search_dir} is under way: the search command makes its runs"
        )
    run = next((r for r in asked[number].runs if r.startswith(wanted)), asked[number].runs[0])
    raise ValueError(
        f"trial {number} of {search_dir} has ended and later ones follow from it, so its runs stay "
        f"as they are; repeat one outside: python main.py train {search_dir / run / CONFIG_NAME}"
    )

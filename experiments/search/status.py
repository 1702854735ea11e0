"""The progress of a search, from its folder alone, and why none of its runs is repeated."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from core.program import command_line
from core.store.names import CONFIG_NAME
from core.store.record import read_run, record_paths
from core.store.search import (
    TRIAL_STATES,
    has_result,
    planned_trials,
    read_definition,
)
from experiments.run.stale import CodeCheck, counted
from experiments.search.ledger import (
    Asked,
    Told,
    asked_trials,
    best_trial,
    read_events,
    told_trials,
)
from experiments.study.lock import living_holder
from experiments.study.status import read_valid_records

RECORD_STATES = ("finished", "failed", "diverged", "damaged")


def search_status(search_dir: Path) -> dict[str, Any]:
    """Trials by state, rounds, runs, the best trial so far, and the process that works on it.

    ``planned`` is None as long as no call has set the number of trials. ``changes`` are those of
    the code since runs were made, with the number of runs.
    """
    definition, events = read_definition(search_dir), read_events(search_dir)
    asked, told = asked_trials(events), told_trials(events)
    best = best_trial(told.values())
    holder = living_holder(search_dir)
    return {
        "study": definition["study"],
        "objectives": definition["objectives"],
        "mode": definition["mode"],
        "round_size": definition["round_size"],
        "planned": planned_trials(search_dir),
        "asked": len(asked),
        "told": len(told),
        "trials": _counts(TRIAL_STATES, [event.state for event in told.values()]),
        "under_way": sorted(asked.keys() - told.keys()),
        "runs": _counts(RECORD_STATES, _record_states(search_dir)),
        "changes": [{"runs": n, "change": change} for n, change in counted(_stale(search_dir))],
        "best": None if best is None else _best(best, asked[best.trial], definition),
        "judged": has_result(search_dir),
        "problems": [
            {"trial": event.trial, "state": event.state, "message": event.message}
            for event in told.values()
            if event.state in ("failed", "diverged")
        ],
        "holder": None if holder is None else str(holder),
    }


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


def _stale(search_dir: Path) -> Iterable[str]:
    """What has changed since each stale run."""
    names = [path.parent.name for path in record_paths(search_dir)]
    return CodeCheck().stale(search_dir, read_valid_records(search_dir, names)).values()


def _best(told: Told, asked: Asked, definition: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(zip(definition["objectives"], told.values, strict=True))
    return {"trial": told.trial, "values": values, "params": dict(asked.params)}


def refuse_rerun(search_dir: Path, wanted: str) -> NoReturn:
    """Explain why a trial or run of a search is not repeated in it, and what to do instead.

    Always raises ValueError: later trials depend on the outcomes of earlier ones.
    """
    events = read_events(search_dir)
    asked, told = asked_trials(events), told_trials(events)
    runs = {run: number for number, event in asked.items() for run in event.runs}
    found = {n for n in asked if str(n) == wanted.removeprefix("trial").strip()}
    found = found or {number for run, number in runs.items() if run.startswith(wanted)}
    if len(found) != 1:
        raise ValueError(
            f"{len(found) or 'no'} trials of {search_dir} match {wanted!r}: give one of 0 to "
            f"{len(asked) - 1}, or a run by its full identity"
        )
    (number,) = found
    if number not in told:
        raise ValueError(
            f"trial {number} of {search_dir} is running: the search command makes its runs"
        )
    run = next((r for r in asked[number].runs if r.startswith(wanted)), asked[number].runs[0])
    raise ValueError(
        f"trial {number} of {search_dir} has ended and later trials depend on it, so its runs "
        "cannot be repeated there; to repeat a run outside the search: "
        f"{command_line('train', search_dir / run / CONFIG_NAME)}"
    )

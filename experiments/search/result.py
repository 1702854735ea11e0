"""The result of a search: the winner, its configuration, and its evaluation on test images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from core.config import config_from_text
from core.metrics import harmonic_mean
from core.store.atomic import write_atomic
from core.store.names import BEST_NAME, FINAL_SUFFIX
from core.store.record import RunRecord, has_record, read_records
from core.store.search import CONTROL, DEFAULT, TUNED
from experiments.search.ledger import Told, best_trial
from experiments.search.scheduler import SearchOutcome
from experiments.search.settings import OBJECTIVES, Search, SearchSetup
from experiments.search.trials import mean_of
from experiments.study.planner import ROOT, FingerprintOf, Plan, plan

HALVES = ("base", "new", "hm")
"""Metrics of the protocol that scores base and new classes apart."""


def winner_of(outcome: SearchOutcome) -> Told:
    """The best trial. Raises ValueError where none is complete."""
    told = outcome.scheduler.told
    best = best_trial(told.values())
    if best is None:
        shown = [told[number] for number in sorted(told)[:3]]
        reasons = "; ".join(f"trial {t.trial} {t.state}: {t.message}" for t in shown)
        study = outcome.scheduler.search.study
        raise ValueError(f"no trial of {study!r} is complete ({reasons})")
    return best


def winning_params(outcome: SearchOutcome) -> dict[str, str]:
    """The settings of the best trial, as text."""
    return dict(outcome.scheduler.asked[winner_of(outcome).trial].params)


def pareto_front(told: Sequence[Told], search: Search) -> list[int]:
    """The complete trials that no other one dominates."""
    signs = [1.0 if OBJECTIVES[name].maximized else -1.0 for name in search.objectives]
    points = {
        t.trial: [sign * value for sign, value in zip(signs, t.values, strict=True)]
        for t in told
        if t.state == "complete"
    }

    def dominated(point: list[float]) -> bool:
        return any(
            other != point and all(a >= b for a, b in zip(other, point, strict=True))
            for other in points.values()
        )

    return [number for number, point in sorted(points.items()) if not dominated(point)]


def write_best(outcome: SearchOutcome, search_dir: Path) -> Path:
    """Write the winner as a complete configuration; returns its path."""
    search, winner, params = outcome.scheduler.search, winner_of(outcome), winning_params(outcome)
    config = outcome.scheduler.study.config(params)
    if f"{ROOT}.dataset" not in config.bindings:
        config = config.with_bindings({f"{ROOT}.dataset": search.datasets[0]}, "search")
    shown = ", ".join(f"{n} {v:.6g}" for n, v in zip(search.objectives, winner.values, strict=True))
    head = [
        f"# The winner of the search {search.study!r}: trial {winner.trial} of {search.trials}.",
        f"# At search time, without test images or new classes: {shown}.",
        *(f"# chosen: {key} = {text}" for key, text in params.items()),
    ]
    path = search_dir / BEST_NAME
    write_atomic(path, "\n".join(head) + "\n" + config.text())
    return path


def winning_settings(outcomes: Sequence[SearchOutcome]) -> dict[str, dict[str, Any]]:
    """The bindings of the winners by their names in the final study: the search's winner, and that
    of the random control if there is one.
    """
    return {
        name: outcome.scheduler.study.space.bindings(winning_params(outcome))
        for name, outcome in zip((TUNED, CONTROL), outcomes, strict=False)
    }


def final_plan(
    setup: SearchSetup, winners: Mapping[str, Mapping[str, Any]], fingerprint_of: FingerprintOf
) -> Plan:
    """The default and the winners over fresh seeds, as an ordinary grid on test images."""
    search = setup.search
    bindings = {
        "grid.study": f"{search.study}{FINAL_SUFFIX}",
        "grid.datasets": search.datasets,
        "grid.seeds": search.final_seeds,
        "grid.baseline": DEFAULT,
        "grid.variants": {DEFAULT: {}, **{name: dict(b) for name, b in winners.items()}},
    }
    return plan(setup.base.with_bindings(bindings, "search"), fingerprint_of)


def result_of(
    outcome: SearchOutcome, control: SearchOutcome | None, final: Plan, final_dir: Path
) -> dict[str, Any]:
    """The scores at search time beside those on test images, as plain data."""
    scheduler, search = outcome.scheduler, outcome.scheduler.search
    records = {record.identity: record for record in read_records(final_dir)}
    variants: dict[str, dict[str, Any]] = {
        variant.name: {
            "test": _test_means(
                [c.identity for c in final.cells if c.variant == variant.name], records
            )
        }
        for variant in final.variants
    }
    variants[DEFAULT]["search"] = _default_values(outcome)
    for name, found in ((TUNED, outcome), (CONTROL, control)):
        if found is not None:
            best = winner_of(found)
            values = dict(zip(search.objectives, best.values, strict=True))
            params = winning_params(found)
            variants[name] |= {"search": values, "trial": best.trial, "params": params}
    return {
        "study": search.study,
        "objectives": list(search.objectives),
        "test_metrics": [_test_metric(name, final) for name in search.objectives],
        "winner": winner_of(outcome).trial,
        "pareto_front": pareto_front(list(scheduler.told.values()), search),
        "final_study": final_dir.name,
        "control_study": control.scheduler.search.study if control else None,
        "num_trials": len(scheduler.told),
        "search_runs": _num_runs(outcome),
        "control_runs": _num_runs(control) if control else 0,
        "final_runs": len(final.runs),
        "variants": variants,
    }


def _default_values(outcome: SearchOutcome) -> dict[str, float | None]:
    """The objectives of the default, on the same runs as the trials."""
    default = outcome.scheduler.default
    records = [default.records[c.identity] for c in default.cells if c.identity in default.records]
    return {name: mean_of(records, name) for name in outcome.scheduler.search.objectives}


def _num_runs(outcome: SearchOutcome) -> int:
    """Number of distinct runs of a search over all calls, including those of the default."""
    scheduler = outcome.scheduler
    wanted = {cell.identity for cell in scheduler.default.cells}
    wanted.update(*(asked.runs for asked in scheduler.asked.values()))
    return sum(has_record(scheduler.ledger.path.parent, identity) for identity in wanted)


def _test_means(
    identities: Sequence[str], records: Mapping[str, RunRecord]
) -> dict[str, float | None]:
    """Means over the finished runs of a variant: every target, HM, and cost."""
    found = [records[key] for key in identities if key in records]
    found = [record for record in found if record.status == "finished"]
    rows: dict[str, list[float]] = {}
    for record in found:
        for name, value in _scores(record).items():
            rows.setdefault(name, []).append(value)
    return {**{name: fmean(values) for name, values in rows.items()}, "runs": len(found)}


def _test_metric(objective: str, final: Plan) -> str:
    """What an objective stands for on test images: where the final runs do not score base and new
    classes apart, there is one accuracy.
    """
    metric = OBJECTIVES[objective].test_metric
    values = config_from_text(final.cells[0].config_text).operative(ROOT)
    halves = values[f"{ROOT}.protocol"] == "base_to_new"
    return metric if halves or metric not in HALVES else "accuracy"


def _scores(record: RunRecord) -> dict[str, float]:
    scores = {e.target: e.accuracy for e in record.evaluations}
    if {"base", "new"} <= scores.keys():
        scores["hm"] = harmonic_mean(scores["base"], scores["new"])
    elif "all" in scores:  # its own test images count where no other dataset is scored
        targets = [value for target, value in scores.items() if target != "all"]
        scores["accuracy"] = fmean(targets or [scores["all"]])
    if record.cost is not None:
        scores["train_seconds"] = record.cost.train_seconds
        scores["trainable_parameters"] = float(record.cost.trainable_parameters)
    return scores

"""What comes out of a search: the winner, its configuration, and its judgment on test images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from core.metrics import harmonic_mean
from core.store import search as store
from core.store.atomic import write_atomic
from core.store.names import BEST_NAME, FINAL_SUFFIX
from core.store.record import RunRecord, has_record, read_records
from core.store.search import CONTROL, DEFAULT, SEARCH_VERSION, TUNED
from experiments.search.course import Course
from experiments.search.ledger import Told
from experiments.search.settings import AIMS, Parsed, Search
from experiments.search.trials import best_of, mean_of
from experiments.study.planner import ROOT, FingerprintOf, Plan, plan


def winner_of(course: Course) -> Told:
    """The best trial. Raises ValueError where none was completed."""
    told = course.rounds.told
    best = best_of(told.values())
    if best is None:
        shown = [told[number] for number in sorted(told)[:3]]
        reasons = "; ".join(f"trial {t.trial} {t.state}: {t.message}" for t in shown)
        raise ValueError(f"no trial of {course.rounds.search.study!r} was completed ({reasons})")
    return best


def pareto_front(told: Sequence[Told], search: Search) -> list[int]:
    """The completed trials that no other one beats in every objective."""
    signs = [1.0 if AIMS[name].maximized else -1.0 for name in search.objectives]
    points = {
        t.trial: [sign * value for sign, value in zip(signs, t.values, strict=True)]
        for t in told
        if t.state == "complete"
    }

    def beaten(point: list[float]) -> bool:
        return any(
            other != point and all(a >= b for a, b in zip(other, point, strict=True))
            for other in points.values()
        )

    return [number for number, point in sorted(points.items()) if not beaten(point)]


def write_best(course: Course, search_dir: Path) -> Path:
    """Write the winner as a configuration that loads as it stands; its path."""
    search, winner = course.rounds.search, winner_of(course)
    params = course.rounds.asked[winner.trial].params
    config = course.rounds.proposer.config(params)
    if f"{ROOT}.dataset" not in config.bindings:
        config = config.with_bindings({f"{ROOT}.dataset": search.datasets[0]}, "search")
    shown = ", ".join(f"{n} {v:.6g}" for n, v in zip(search.objectives, winner.values, strict=True))
    head = [
        f"# The winner of the search {search.study!r}: trial {winner.trial} of {search.trials}.",
        f"# At search time, never on test images or new classes: {shown}.",
        *(f"# chosen: {key} = {text}" for key, text in params.items()),
    ]
    path = search_dir / BEST_NAME
    write_atomic(path, "\n".join(head) + "\n" + config.text())
    return path


def winning_settings(courses: Sequence[Course]) -> dict[str, dict[str, Any]]:
    """What the winners bind, by the names that they have in the judgment: the search's, and the
    random control's where there is one.
    """
    winners = {}
    for name, course in zip((TUNED, CONTROL), courses, strict=False):
        asked = course.rounds.asked[winner_of(course).trial]
        winners[name] = course.rounds.proposer.space.bindings(asked.params)
    return winners


def final_plan(
    parsed: Parsed, winners: Mapping[str, Mapping[str, Any]], fingerprint_of: FingerprintOf
) -> Plan:
    """The default and the winners over fresh seeds, as an ordinary grid on test images."""
    search = parsed.search
    bindings = {
        "grid.study": f"{search.study}{FINAL_SUFFIX}",
        "grid.datasets": search.datasets,
        "grid.seeds": search.final_seeds,
        "grid.baseline": DEFAULT,
        "grid.variants": {DEFAULT: {}, **{name: dict(b) for name, b in winners.items()}},
    }
    return plan(parsed.base.with_bindings(bindings, "search"), fingerprint_of)


def write_result(
    course: Course, control: Course | None, made: Plan, search_dir: Path, final_dir: Path
) -> dict[str, Any]:
    """Write and give ``result.json``: what was promised at search time beside what was kept."""
    search, winner = course.rounds.search, winner_of(course)
    records = {record.identity: record for record in read_records(final_dir)}
    variants: dict[str, dict[str, Any]] = {
        variant.name: {
            "test": _test_means(
                [c.identity for c in made.cells if c.variant == variant.name], records
            )
        }
        for variant in made.variants
    }
    variants[DEFAULT]["search"] = _default_values(course)
    for name, found in ((TUNED, course), (CONTROL, control)):
        if found is not None:
            best = winner_of(found)
            values = dict(zip(search.objectives, best.values, strict=True))
            params = dict(found.rounds.asked[best.trial].params)
            variants[name] |= {"search": values, "trial": best.trial, "params": params}
    result = {
        "schema_version": SEARCH_VERSION,
        "study": search.study,
        "objectives": list(search.objectives),
        "test_metrics": [AIMS[name].test_metric for name in search.objectives],
        "winner": winner.trial,
        "pareto_front": pareto_front(list(course.rounds.told.values()), search),
        "final_study": final_dir.name,
        "control_study": control.rounds.search.study if control else None,
        "num_trials": len(course.rounds.told),
        "search_runs": _num_runs(course),
        "control_runs": _num_runs(control) if control else 0,
        "final_runs": len(made.runs),
        "variants": variants,
    }
    store.write_result(search_dir, result)
    return result


def _default_values(course: Course) -> dict[str, float | None]:
    """The objectives of the default on the runs that trials are judged by."""
    default = course.rounds.default
    records = [default.records[c.identity] for c in default.cells if c.identity in default.records]
    return {name: mean_of(records, name) for name in course.rounds.search.objectives}


def _num_runs(course: Course) -> int:
    """Different runs that a search made in all its calls, the default's included."""
    rounds = course.rounds
    wanted = {cell.identity for cell in rounds.default.cells}
    wanted.update(*(asked.runs for asked in rounds.asked.values()))
    folder = rounds.ledger.path.parent
    return sum(has_record(folder, identity) for identity in wanted)


def _test_means(
    identities: Sequence[str], records: Mapping[str, RunRecord]
) -> dict[str, float | None]:
    """Means over the finished runs of a variant: every target, HM, and the cost."""
    found = [records[key] for key in identities if key in records]
    found = [record for record in found if record.status == "finished"]
    rows: dict[str, list[float]] = {}
    for record in found:
        for name, value in _scores(record).items():
            rows.setdefault(name, []).append(value)
    return {**{name: fmean(values) for name, values in rows.items()}, "runs": len(found)}


def _scores(record: RunRecord) -> dict[str, float]:
    scores = {e.target: e.accuracy for e in record.evaluations}
    if {"base", "new"} <= scores.keys():
        scores["hm"] = harmonic_mean(scores["base"], scores["new"])
    if record.cost is not None:
        scores["train_seconds"] = record.cost.train_seconds
        scores["trainable_parameters"] = float(record.cost.trainable_parameters)
    return scores

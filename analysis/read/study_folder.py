"""``Results`` of a study folder. Nothing is dropped silently: every missing run is named."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.read.cells import CellResult, read_cells
from analysis.read.code_versions import code_versions, num_unrecorded
from analysis.read.integrity import EXCLUDED, Provenance, exclusion_problems, reasons_to_exclude
from analysis.read.provenance import split_provenance
from analysis.read.results import (
    Problem,
    Results,
    RunKey,
    Setting,
    add_hm,
    metric_order,
    seed_array,
    with_choices,
)
from analysis.read.shot_curves import curve_rows, point
from core.store.manifest import read_manifest
from core.store.own_files import foreign_files
from core.store.record import RunRecord, record_paths
from core.store.run_facts import (
    DEVICES,
    devices_of,
    is_own,
    own_scores,
    own_target,
    short_counts,
    target_scores,
)

TARGETS = {"all": "accuracy"}
"""Metrics that are not called as the classes that they are measured on."""
CODE = ("commit", "dirty", "plugins.")
"""What the environment says of the code, of no interest where the code itself is compared."""
LOCKSTEP = "lockstep"
"""How many runs trained side by side, which changes no result; the table of costs names it."""
TOLD_ELSEWHERE = frozenset(
    {LOCKSTEP, "skipped_steps", "gpu.name", "gpu.capability", "gpu.memory_gb"}
)
"""Facts of a run that no note compares: its own, or those of its device, which one note names."""


def load_study(
    study_dir: Path, *, baseline: str | None = None, allow_mixed: bool = False
) -> Results:
    """Results of a study folder: ``study.json`` says what was planned, the records what was run.

    A cell without a record is missing; a failed or diverged run is named and never averaged; a run
    of other code or another split than its peers is excluded and named. Raises ValueError for a
    broken manifest, a record that contradicts it, a variant that mixes regimes, or no finished run.
    """
    manifest = read_manifest(study_dir)
    cells = read_cells(study_dir, manifest)
    finished = _finished(study_dir, cells)
    variants, judge = manifest.variant_names, baseline or manifest.baseline
    kept, excluded = _comparable(study_dir, finished, judge, allow_mixed=allow_mixed)
    used = [cell for cell, _ in kept]
    frame, datasets, notes, by_target = _scores(used, manifest.datasets)
    frame, provenance = split_provenance(frame, used, [origin for _, origin in kept])
    curve, (inert, partly) = _curve(cells), _inert(cells)
    results = Results(
        name=manifest.study,
        frame=frame,
        variants=variants,
        datasets=datasets,
        metrics=tuple(curve) or metric_order(frame),
        primary=list(curve)[-1] if curve else "",
        planned_seeds=tuple(sorted({int(c.seed) for c in cells if c.seed is not None})),
        baseline=manifest.baseline,
        references=manifest.references,
        problems=(*_problems(cells), *excluded),
        notes=(*notes, *partly, *_record_notes(study_dir, cells), *_mixed_notes(kept)),
        inert=inert,
        aliases=_aliases(cells, variants, manifest.baseline),
        settings=_settings(finished),
        factors={variant.name: dict(variant.factors) for variant in manifest.variants},
        levels=dict(manifest.factors),
        provenance=provenance,
        shots=_shots(finished),
        batch_coupled=_batch_coupled(finished, variants),
        trained_on_test=_trained_on_test(finished, variants),
        shared_seeds=by_target,
        source_accuracy=_source_accuracy(used, variants) if by_target else {},
        curve=curve,
        environment=_environment(finished),
        devices=_devices(finished),
        costs=_costs(finished, variants),
        runs=_runs(cells, used),
    )
    return with_choices(results, baseline=baseline)


def _curve(cells: Sequence[CellResult]) -> dict[str, int]:
    """The points of a few-shot curve, by name."""
    return {point(n): n for n in sorted({c.shots for c in cells if c.shots is not None})}


def _finished(study_dir: Path, cells: Sequence[CellResult]) -> list[CellResult]:
    """The cells with a score. Raises ValueError where there is none."""
    finished = [c for c in cells if c.record is not None and c.record.status == "finished"]
    if not finished:
        rule = f"{study_dir}: a report needs at least one finished run"
        raise ValueError(
            f"{rule}, but none of the {len(cells)} planned cells has one; {_why(cells)}"
        )
    return finished


def _why(cells: Sequence[CellResult]) -> str:
    """What to do about a study none of whose runs has finished."""
    ended = [c.record for c in cells if c.record is not None]
    if not ended:
        return "run it first"
    counts = Counter(record.status for record in ended)
    shown = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    way = "change their settings"
    if counts["failed"]:
        way = "mend what made them fail, then rerun the grid with --retry-failed"
    return f"{shown} ({ended[0].message or 'no reason was given'}): {way}"


def _scores(
    finished: Sequence[CellResult], planned: tuple[str, ...]
) -> tuple[pd.DataFrame, tuple[str, ...], tuple[str, ...], bool]:
    """Frame, datasets, notes and whether rows are targets of one trained model.

    Where every run is scored on its own dataset (base-to-new, few-shot), targets are the metrics.
    Where a model is scored on other datasets (cross-dataset, domain generalization), the targets
    are the datasets and the one metric is accuracy; the source itself is not part of an average
    over targets. The points of a few-shot curve are metrics.
    """
    if any(c.shots is not None for c in finished):
        return _typed(curve_rows(finished)), planned, (), False
    pairs = [(c, c.record) for c in finished if c.record is not None]
    own = all(is_own(r, e) for _, r in pairs for e in r.evaluations)
    target_sets = {frozenset(own_target(r, e) for e in r.evaluations) for _, r in pairs}
    if own and (
        len(target_sets) == 1
        or target_sets <= {frozenset({"base"}), frozenset({"new"}), frozenset({"base", "new"})}
    ):
        rows = [
            {**_key(c, c.dataset), "run": (c.identity,)}
            | {TARGETS.get(t := own_target(r, e), t): e.accuracy for e in r.evaluations}
            for c, r in pairs
        ]
        return _typed(rows), planned, (), False
    several = len({r.dataset for _, r in pairs}) > 1 and not own
    rows, notes = [], []
    for c, r in pairs:
        others = target_scores(r)
        for e in others or r.evaluations:
            name = _pair_name(r.dataset, e.target) if several else e.target
            counts = {"correct": sum(e.correct), "total": sum(e.total)}
            rows.append({**_key(c, name), "run": (c.identity,), **counts, "accuracy": e.accuracy})
        if others and len(others) < len(r.evaluations):
            notes.append("accuracy on the source dataset is not part of the average over targets")
    datasets = tuple(dict.fromkeys(str(row["dataset"]) for row in rows))
    return _typed(rows), datasets, tuple(dict.fromkeys(notes)), not own


def _pair_name(source: str, target: str) -> str:
    """A source and a target in one name; no other pair has it."""
    return " to ".join(repr(name) if " to " in name else name for name in (source, target))


def _source_accuracy(finished: Sequence[CellResult], variants: Sequence[str]) -> dict[str, float]:
    """Mean accuracy of each variant on the datasets that its runs were trained on."""
    found: dict[str, list[float]] = {}
    for c in finished:
        own = [e.accuracy for e in own_scores(c.record)] if c.record else []
        found.setdefault(c.variant, []).extend(own)
    return {v: sum(found[v]) / len(found[v]) for v in variants if found.get(v)}


def _key(cell: CellResult, dataset: str) -> dict[str, Any]:
    return {"variant": cell.variant, "dataset": dataset, "seed": cell.seed}


def _typed(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows))
    return add_hm(frame.assign(seed=seed_array([row["seed"] for row in rows])))


def _problems(cells: Sequence[CellResult]) -> Iterable[Problem]:
    for c in cells:
        if c.broken:
            kind, detail = "unreadable", c.broken
        elif c.record is None:
            kind, detail = "missing", "no record yet; run the grid command again to fill it"
        elif c.record.status != "finished":
            kind, detail = c.record.status, c.record.message or "the record gives no reason"
        else:
            continue
        detail = detail if c.shots is None else f"{point(c.shots)}: {detail}"
        yield Problem(kind=kind, variant=c.variant, dataset=c.dataset, seed=c.seed, detail=detail)


def _record_notes(study_dir: Path, cells: Sequence[CellResult]) -> Iterable[str]:
    planned = {c.identity for c in cells}
    unplanned = [path.parent.name for path in record_paths(study_dir)]
    if extra := [name for name in unplanned if name not in planned]:
        names = ", ".join(extra)
        yield f"runs in the folder but not in the manifest are not used ({len(extra)}): {names}"
    finished = [c for c in cells if c.record is not None and c.record.status == "finished"]
    yield from _foreign_files(study_dir, finished)
    compared = all(c.record.code for c in finished if c.record)
    for key, recorded in _environment(finished).items():
        values = _device_names(finished) if key == "device" else recorded
        if (
            len(values) > 1
            and key not in TOLD_ELSEWHERE
            and not (compared and key.startswith(CODE))
        ):
            yield f"the runs differ in {key}: {', '.join(values)}"
    yield from _fingerprint_notes([c.record for c in finished if c.record is not None])
    yield from _shot_notes(finished)
    on_purpose = any(c.shots is not None for c in cells)
    if len(shots := _shots(finished)) > 1 and not on_purpose:
        yield f"the runs differ in shots: {', '.join(map(str, shots))}"


def _foreign_files(study_dir: Path, cells: Sequence[CellResult]) -> Iterable[str]:
    """Scores come from the records; what else a run wrote may have been changed since."""
    records = {c.identity: c.record for c in cells if c.record is not None}
    names = [
        f"{identity}/{name}"
        for identity, record in records.items()
        for name in foreign_files(study_dir / identity, record)
    ]
    if names:
        yield (
            f"files that are not those that their runs wrote ({len(names)}): {', '.join(names)}; "
            "the scores are those of the records; restore the files, or rerun the runs"
        )


def _fingerprint_notes(records: Sequence[RunRecord]) -> Iterable[str]:
    """Pairs are only pairs on the same images and the same frozen model: say where they are not."""
    by_seed: dict[tuple[str, int | None], set[str]] = {}
    for record in records:
        split = record.fingerprints.get("dataset", "")
        by_seed.setdefault((record.dataset, record.seed), set()).add(split)
    for dataset in dict.fromkeys(dataset for dataset, _ in by_seed):
        seeds = {seed: splits for (name, seed), splits in by_seed.items() if name == dataset}
        if any(len(splits) > 1 for splits in seeds.values()):
            yield f"the runs on {dataset} differ in split, so their differences are not paired"
        elif None in seeds and len(set().union(*seeds.values())) > 1:
            yield (
                f"{dataset} has a split of its own for every seed, but a variant without seeds was "
                "measured on one of them, so its differences are not paired"
            )
    if len({record.fingerprints.get("backbone", "") for record in records}) > 1:
        yield "the runs do not share one frozen backbone"


def _aliases(cells: Sequence[CellResult], variants: Sequence[str], baseline: str) -> dict[str, str]:
    """Variants all of whose runs are another variant's runs; the baseline, then the earlier
    variant, is the original.
    """
    runs = {v: frozenset(c.identity for c in cells if c.variant == v) for v in variants}
    first: dict[frozenset[str], str] = {runs[baseline]: baseline}
    for v in variants:
        first.setdefault(runs[v], v)
    return {v: first[runs[v]] for v in variants if first[runs[v]] != v}


def _settings(finished: Sequence[CellResult]) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for c in finished:
        assert c.record is not None
        r = c.record
        setting = Setting(protocol=r.protocol, regime=r.regime, selection=r.selection)
        if different := setting.differs(settings.setdefault(c.variant, setting)):
            raise ValueError(
                f"a variant has one protocol, regime and selection, but {c.variant!r} mixes "
                f"{different}; give each its own variant"
            )
    return settings


def _shots(finished: Sequence[CellResult]) -> tuple[int, ...]:
    return tuple(sorted({c.record.shots for c in finished if c.record and c.seed is not None}))


def _inert(cells: Sequence[CellResult]) -> tuple[dict[str, str], list[str]]:
    """Notes of the planner: by variant where all its cells have one, otherwise one per cell."""
    bare = {c.variant for c in cells if not c.note}
    whole = {c.variant: c.note for c in cells if c.note and c.variant not in bare}
    partly = dict.fromkeys(
        f"{c.variant} on {c.dataset}: {c.note}" for c in cells if c.note and c.variant in bare
    )
    return whole, list(partly)


def _batch_coupled(finished: Sequence[CellResult], variants: Sequence[str]) -> tuple[str, ...]:
    coupled = {c.variant for c in finished if c.record is not None and c.record.batch_coupled}
    return tuple(v for v in variants if v in coupled)


def _trained_on_test(finished: Sequence[CellResult], variants: Sequence[str]) -> dict[str, int]:
    """By variant, the most test images that one of its runs was trained on, where there are any."""
    most = {
        v: max((c.record.shared_images for c in finished if c.variant == v and c.record), default=0)
        for v in variants
    }
    return {v: number for v, number in most.items() if number}


def _shot_notes(finished: Sequence[CellResult]) -> Iterable[str]:
    """Where trained classes have fewer training images than shots, per dataset and shots."""
    most: dict[tuple[str, int], tuple[int, ...]] = {}
    for record in (c.record for c in finished if c.record is not None):
        if short := short_counts(record):
            key = record.dataset, record.shots
            most[key] = max(most.get(key, ()), short, key=len)
    for (dataset, shots), short in most.items():
        have = "class has" if len(short) == 1 else "classes have"
        used = str(min(short)) if min(short) == max(short) else f"{min(short)} to {max(short)}"
        yield (
            f"{dataset}, {point(shots)}: {len(short)} trained {have} fewer training images than "
            f"that: {used}"
        )


def _environment(finished: Sequence[CellResult]) -> dict[str, tuple[str, ...]]:
    values: dict[str, set[str]] = {}
    for c in finished:
        assert c.record is not None
        told = {k: v for k, v in c.record.environment.items() if k != DEVICES}
        for key, value in _flat(told):
            values.setdefault(key, set()).add(str(value))
    return {key: tuple(sorted(values[key])) for key in sorted(values)}


def _devices(finished: Sequence[CellResult]) -> dict[tuple[str, ...], tuple[RunKey, ...]]:
    """The runs of each device, of several where a training went on on another, or of none that is
    recorded; several GPUs of one model are one device.
    """
    found: dict[tuple[str, ...], list[RunKey]] = {}
    for c in finished:
        names = devices_of(c.record) if c.record else ()
        found.setdefault(names, []).append((c.variant, c.dataset, c.seed))
    return {names: tuple(found[names]) for names in sorted(found)} if any(found) else {}


def _device_names(finished: Sequence[CellResult]) -> list[str]:
    """The devices of all runs, GPUs without their numbers."""
    return sorted({name for c in finished if c.record for name in devices_of(c.record)})


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _status(cell: CellResult, *, used: bool) -> str:
    if cell.broken:
        return "unreadable"
    if cell.record is None:
        return "missing"
    return cell.record.status if used or cell.record.status != "finished" else EXCLUDED


def _comparable(
    study_dir: Path, finished: Sequence[CellResult], baseline: str, *, allow_mixed: bool
) -> tuple[list[tuple[CellResult, Provenance]], list[Problem]]:
    """The cells whose scores may stand in one table, and the others as problems."""
    origins = _provenance(study_dir, finished, baseline)
    reasons = reasons_to_exclude(origins, baseline=baseline, allow_mixed=allow_mixed)
    kept = [(c, o) for c, o, why in zip(finished, origins, reasons, strict=True) if not why]
    return kept, exclusion_problems(origins, reasons)


def _provenance(study_dir: Path, finished: Sequence[CellResult], baseline: str) -> list[Provenance]:
    """Where the score of every cell comes from."""
    code = code_versions(study_dir, finished, baseline)
    return [
        Provenance(
            variant=c.variant,
            dataset=c.dataset,
            seed=c.seed,
            code=version,
            data=str(c.record.fingerprints.get("dataset", "")) if c.record else "",
            other_code=reason,
        )
        for c, version, reason in zip(finished, code.versions, code.reasons, strict=True)
    ]


def _mixed_notes(kept: Sequence[tuple[CellResult, Provenance]]) -> Iterable[str]:
    """What a reader should know of the code of the runs that are used."""
    if mixed := sum(bool(origin.other_code) for _, origin in kept):
        yield f"runs of different code stand together (--allow-mixed): {mixed} of {len(kept)}"
    if unknown := num_unrecorded([cell for cell, _ in kept]):
        yield (
            f"{unknown} of {len(kept)} runs were made by a version of RefineLab that did not "
            "record their code: whether it is that of the others is not checked"
        )


def _costs(finished: Sequence[CellResult], variants: Sequence[str]) -> pd.DataFrame:
    """Mean cost of a run per variant; the same run of an inert variant shows the same figures."""
    rows = []
    for v in variants:
        costs = [c.record.cost for c in finished if c.variant == v and c.record and c.record.cost]
        if not costs:
            continue
        num = len(costs)
        rows.append(
            {
                "variant": v,
                "runs": num,
                "trainable_parameters": max(c.trainable_parameters for c in costs),
                "train_seconds": sum(c.train_seconds for c in costs) / num,
                "evaluate_seconds": sum(c.evaluate_seconds for c in costs) / num,
                "total_seconds": sum(c.total_seconds for c in costs) / num,
                "images_per_second": sum(c.images_per_second for c in costs) / num,
                "peak_memory_mb": max(c.peak_memory_mb for c in costs),
            }
        )
    return pd.DataFrame(rows)


def _runs(cells: Sequence[CellResult], used: Sequence[CellResult]) -> pd.DataFrame:
    """Every planned cell; ``used`` are those whose scores the report uses."""
    kept = {id(c) for c in used}
    rows = [
        {
            "variant": c.variant,
            "dataset": c.dataset,
            "seed": c.seed,
            "shots": c.shots,
            "identity": c.identity,
            "status": _status(c, used=id(c) in kept),
            "note": c.note,
        }
        for c in cells
    ]
    frame = pd.DataFrame(rows)
    shots = pd.array([c.shots for c in cells], dtype="Int64")
    return frame.assign(seed=seed_array([c.seed for c in cells]), shots=shots)

"""Study folders written by hand: records with known counts, and their manifest."""

import itertools
import json
import random

from core.store.record import Cost, Evaluation, RunRecord, from_json, to_json, write_record

FULL = {"experiment.method": "@CoOp", "experiment.refiner": "@TextRefiner"}


def evaluation(target, dataset, correct, total=400):
    return Evaluation(
        target=target,
        dataset=dataset,
        classes=target,
        class_names=("a", "b"),
        correct=(correct // 2, correct - correct // 2),
        total=(total // 2, total - total // 2),
    )


def counts(effect, identity, seed, noise):
    """Correct base and new images: a level all variants share, the effect, and noise of its own."""
    v_index, d_index = int(identity[:2]), int(identity[2:4])
    own = random.Random(1000 * v_index + 10 * d_index + (seed or 0))
    shared = random.Random(77 * d_index + (seed or 0))
    level = [230 + 15 * d_index + shared.randint(-6, 6) for _ in range(2)]
    return [level[i] + effect[i] + (own.randint(-noise, noise) if noise else 0) for i in range(2)]


COST = Cost(
    train_seconds=10.25,
    evaluate_seconds=1.5,
    total_seconds=12.0,
    images_per_second=400.0,
    peak_memory_mb=350.0,
    trainable_parameters=2048,
)


def make_study(
    folder,
    effects,
    *,
    datasets=6,
    seeds=5,
    constant=(),
    skip=(),
    status=None,
    references=(),
    factors=None,
    regimes=None,
    prefix="data/",
    noise=4,
    inert=None,
    batch_coupled=(),
):
    """A study whose variants differ by ``effects[name] = (base, new)`` images of 400.

    ``constant`` variants have no seed, ``skip`` names cells without a record, ``status`` maps a
    cell to the state of its run and ``inert`` a variant to the one whose runs it shares."""
    names, inert = [f"{prefix}set{i}" for i in range(datasets)], inert or {}
    cells = plan_cells(list(effects), names, range(1, seeds + 1), constant, inert)
    levels = {v: (factors or {}).get(v, FULL) for v in effects}
    for cell in cells:
        variant, key = cell["variant"], (cell["variant"], cell["dataset"], cell["seed"])
        if key in skip or variant in inert:
            continue
        state, message = (status or {}).get(key, ("finished", ""))
        write_run(
            folder,
            cell,
            counts(effects[variant], cell["identity"], cell["seed"], noise),
            factors=levels[variant],
            regime=(regimes or {}).get(variant, "inductive"),
            status=state,
            message=message,
            batch_coupled=variant in batch_coupled,
        )
    return write_manifest(folder, levels, names, cells, references)


def write_run(folder, cell, correct, *, status, **fields):
    pairs = zip(("base", "new"), correct, strict=True)
    evaluations = tuple(evaluation(target, cell["dataset"], number) for target, number in pairs)
    record = RunRecord(
        identity=cell["identity"],
        variant=cell["variant"],
        dataset=cell["dataset"],
        seed=cell["seed"],
        protocol="base-to-new",
        selection="last",
        shots=16,
        status=status,
        evaluations=evaluations if status == "finished" else (),
        cost=COST,
        environment={"commit": "abc", "packages": {"torch": "2.10"}},
        **fields,
    )
    write_record(folder / cell["identity"], record)


def plan_cells(variants, datasets, seeds, constant, inert):
    """Cells of every variant, dataset and seed; one without a seed for a constant variant."""
    cells = []
    for variant, dataset in itertools.product(variants, datasets):
        owner = inert.get(variant, variant)
        note = f"inert: same as {owner!r}" if variant in inert else ""
        for seed in [None] if variant in constant else seeds:
            parts = (variants.index(owner), datasets.index(dataset), seed or 0)
            key = {"variant": variant, "dataset": dataset, "seed": seed}
            cells.append({**key, "identity": "{:02d}{:02d}{:02d}".format(*parts), "note": note})
    return cells


def write_manifest(folder, factors, datasets, cells, references=()):
    manifest = {
        "schema_version": 1,
        "study": folder.name,
        "baseline": next(iter(factors)),
        "references": list(references),
        "datasets": datasets,
        "seeds": sorted({cell["seed"] for cell in cells} - {None}),
        "variants": [{"name": v, "factors": levels} for v, levels in factors.items()],
        "cells": cells,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(manifest))
    return folder


def edit_manifest(folder, **changes):
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


FIELDS = {
    "variant": "v",
    "factors": {},
    "dataset": "source",
    "protocol": "cross-dataset",
    "regime": "inductive",
    "selection": "last",
    "seed": 1,
    "shots": 16,
    "status": "finished",
}


def cross_dataset(folder, sources=("source",), scores=(200, 240)):
    """A study with one evaluation per target: the source itself and two others."""
    cells = []
    for variant, shift in (("CoOp", 0), ("Full", 10)):
        for source in sources:
            for seed in (1, 2):
                identity = f"{variant}-{source}-{seed}"
                own = evaluation(source, source, 300 + seed)
                others = [
                    evaluation(f"t{i}", f"t{i}", value + shift + seed)
                    for i, value in enumerate(scores)
                ]
                fields = {**FIELDS, "dataset": source, "seed": seed, "identity": identity}
                write_record(folder / identity, RunRecord(**fields, evaluations=(own, *others)))
                cells.append(
                    {"variant": variant, "dataset": source, "seed": seed, "identity": identity}
                )
    return write_manifest(folder, {"CoOp": {}, "Full": {}}, list(sources), cells)


def edit_record(path, edit):
    """Let ``edit`` change the raw record of a file, as if the run had been recorded like that."""
    raw = json.loads(path.read_text())
    edit(raw)
    del raw["digest"]
    path.write_text(to_json(from_json(json.dumps({**raw, "schema_version": 1}))))

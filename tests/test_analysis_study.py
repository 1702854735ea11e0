"""Reading study folders: what is averaged, what is named, what is refused."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from analysis.frames import load, load_study, seen_from
from core.records import Cost, Evaluation, RunRecord, write_record

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


def make_study(
    folder: Path,
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
    total=400,
):
    """A study whose variants differ from each other by ``effects[name] = (base, new)`` images of ``total``.

    ``constant`` variants have no seed, ``skip`` names cells without a record, ``status`` maps a cell to the state
    of its run and ``inert`` a variant to the one whose runs it shares.
    """
    names = [f"{prefix}set{i}" for i in range(datasets)]
    cells, inert = [], inert or {}
    for v_index, (variant, effect) in enumerate(effects.items()):
        for d_index, dataset in enumerate(names):
            for seed in [None] if variant in constant else range(1, seeds + 1):
                owner = inert.get(variant, variant)
                identity = f"{list(effects).index(owner):02d}{d_index:02d}{seed or 0:02d}"
                note = f"inert: same as {owner!r}" if variant in inert else ""
                key = (variant, dataset, seed)
                cells.append(
                    {"variant": variant, "dataset": dataset, "seed": seed, "identity": identity}
                    | {"note": note}
                )
                if key in skip or variant in inert:
                    continue
                rng = random.Random(1000 * v_index + 10 * d_index + (seed or 0))
                shared = random.Random(77 * d_index + (seed or 0))
                level = [230 + 15 * d_index + shared.randint(-6, 6) for _ in range(2)]
                state, message = (status or {}).get(key, ("finished", ""))
                values = [
                    level[i] + effect[i] + (rng.randint(-noise, noise) if noise else 0)
                    for i in range(2)
                ]
                record = RunRecord(
                    identity=identity,
                    variant=variant,
                    factors=(factors or {}).get(variant, FULL),
                    dataset=dataset,
                    protocol="base-to-new",
                    regime=(regimes or {}).get(variant, "inductive"),
                    selection="last",
                    seed=seed,
                    shots=16,
                    status=state,
                    evaluations=()
                    if state != "finished"
                    else (
                        evaluation("base", dataset, values[0], total),
                        evaluation("new", dataset, values[1], total),
                    ),
                    cost=Cost(
                        train_seconds=10.0 + v_index + rng.random(),
                        evaluate_seconds=1.5,
                        total_seconds=12.0,
                        images_per_second=400.0,
                        peak_memory_mb=350.0,
                        trainable_parameters=2048 * (v_index + 1),
                    ),
                    batch_coupled=variant in batch_coupled,
                    environment={"commit": "abc", "packages": {"torch": "2.10"}},
                    message=message,
                )
                write_record(folder / identity, record)
    manifest = {
        "schema_version": 1,
        "study": folder.name,
        "baseline": next(iter(effects)),
        "references": list(references),
        "datasets": names,
        "seeds": list(range(1, seeds + 1)),
        "variants": [{"name": v, "factors": (factors or {}).get(v, FULL)} for v in effects],
        "cells": cells,
    }
    (folder / "study.json").write_text(json.dumps(manifest))
    return folder


def edit_manifest(folder, **changes):
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def study(tmp_path):
    return tmp_path / "demo"

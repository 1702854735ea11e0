"""Study folders of any size without training: real configurations and records, random scores.

    python -m tests.helpers.untrained_studies FOLDER --variants 50 --datasets 20 --seeds 10

The grid is planned as any other, so identities, configurations and the code in every record are
those that runs of these settings would have; only what was scored is drawn.
"""

import argparse
import base64
import functools
import hashlib
import json
from pathlib import Path

import numpy as np

import experiments.cli.registered  # noqa: F401  (fills the registry)
from core.config import config_from_text
from core.store.documents import with_digest
from core.store.manifest import MANIFEST_VERSION
from core.store.names import (
    CODE_NAME,
    CONFIG_NAME,
    CORRECT_NAME,
    EPOCHS_NAME,
    MANIFEST_NAME,
    OPERATIVE_NAME,
    PREDICTIONS_NAME,
    RECORD_NAME,
)
from core.store.record import Cost, Evaluation, RunRecord, to_json
from experiments.configs import SHIPPED, read_config_file
from experiments.run.code import code_of
from experiments.run.operative import operative_of
from experiments.study.planner import plan

METHODS = ("CoOp", "KgCoOp")
CACHES = ("EmaCache", "NoCache", "QueueCache")
AGGREGATIONS = ("LinearAggregation", "NoAggregation")
CLASSES, IMAGES = 12, 100
"""Classes of each half, and test images of each class, as on the embedded benchmark."""
ENVIRONMENT = {
    "commit": "f8518e861913",
    "device": "cpu (x86_64)",
    "dirty": False,
    "packages": {"numpy": "2.4.6", "torch": "2.13.0"},
    "python": "3.11.7",
    "threads": 1,
}


def grid_text(variants, datasets, seeds, *, study="untrained", factorial=False):
    """The text of a grid of that many variants, datasets (numbers, or names) and seeds."""
    names = [f"set_{i:03d}" for i in range(datasets)] if isinstance(datasets, int) else datasets
    lines = [
        "include 'text_refiner.gin'",
        f"grid.study = {study!r}",
        f"grid.datasets = {tuple(names)!r}",
        f"grid.seeds = {tuple(range(1, seeds + 1))!r}",
        *(_factors(variants) if factorial else _variants(variants)),
    ]
    return "\n".join(lines) + "\n"


def _levels(names):
    return "(" + ", ".join(f"@{name}" for name in names) + ")"


def _factors(variants):
    """A full factorial design of at least that many variants: two methods, parts on and off, and
    learning rates.
    """
    rates = tuple(round(0.002 * 1.05**i, 6) for i in range(max(2, -(-variants // 8))))
    return [
        "grid.baseline = 'full'",
        "grid.factors = {",
        f"    'experiment.method': {_levels(METHODS)},",
        f"    'TextRefiner.cache': {_levels(CACHES[:2])},",
        f"    'TextRefiner.aggregation': {_levels(AGGREGATIONS)},",
        f"    'SGD.lr': {rates!r},",
        "}",
    ]


def _variants(variants):
    """Named variants: the base method, and the refiner with every part and learning rates."""
    made = ["    'CoOp': {'experiment.refiner': @NullRefiner},"]
    for i in range(1, variants):
        method, cache = METHODS[i % len(METHODS)], CACHES[i % len(CACHES)]
        aggregation = AGGREGATIONS[i // 2 % len(AGGREGATIONS)]
        rate = round(0.002 * 1.01**i, 6)
        made.append(
            f"    'variant {i:03d}': {{'experiment.method': @{method}, 'TextRefiner.cache': "
            f"@{cache}, 'TextRefiner.aggregation': @{aggregation}, 'SGD.lr': {rate!r}}},"
        )
    return ["grid.baseline = 'CoOp'", "grid.variants = {", *made, "}"]


def read_grid(path, *overrides):
    """The configuration of a grid's file."""
    return read_config_file(path, overrides)


def write_grid(path, text):
    """Write the file of a grid; returns its configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return read_grid(path)


def fingerprints_of(config):
    """Fingerprints of datasets and a backbone that do not exist."""
    dataset = str(config.bindings["experiment.dataset"])
    return {"dataset": _digest(dataset), "backbone": _digest("backbone")}


def planned_grid(path, text):
    """The plan of a grid whose datasets do not exist."""
    return plan(write_grid(path, text), fingerprints_of, yes=True)


def write_untrained(made, folder, *, predictions=True):
    """Write the folder of a plan as if every run had finished; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for cell in made.runs:
        _write_run(folder / cell.identity, cell, predictions=predictions)
    _write_document(folder / MANIFEST_NAME, MANIFEST_VERSION, made.manifest.to_dict())
    return folder


def _write_run(run_dir, cell, *, predictions):
    run_dir.mkdir(exist_ok=True)
    digests = {"config": _write(run_dir / CONFIG_NAME, cell.config_text)}
    code, files = _shared_files(_without_values(cell.config_text), cell.config_text)
    for name, text in files.items():
        digests[name] = _write(run_dir / name, text)
    digests[EPOCHS_NAME] = _write(run_dir / EPOCHS_NAME, _epochs())
    targets = {target: _scored(cell, target) for target in ("base", "new")}
    if predictions:
        digests[CORRECT_NAME] = _write_document(
            run_dir / CORRECT_NAME, 1, {"targets": [_correct(t, *s) for t, s in targets.items()]}
        )
        digests[PREDICTIONS_NAME] = _write_document(
            run_dir / PREDICTIONS_NAME,
            1,
            {"targets": [_predicted(t, *s) for t, s in targets.items()]},
        )
    config_sha256 = digests.pop("config")
    record = _record(cell, code, targets, config_sha256, digests)
    _write(run_dir / RECORD_NAME, to_json(record))


def _record(cell, code, targets, config_sha256, digests):
    number = int(cell.identity, 16)
    return RunRecord(
        identity=cell.identity,
        variant=cell.variant,
        factors=dict(cell.factors),
        dataset=cell.dataset,
        protocol="base_to_new",
        regime="inductive",
        selection="last",
        seed=cell.seed,
        shots=16,
        status="finished",
        evaluations=tuple(
            Evaluation(
                target=target,
                dataset=cell.dataset,
                classes=target,
                class_names=_names(target),
                correct=tuple(map(int, np.bincount(labels[labels == found], minlength=CLASSES))),
                total=(IMAGES,) * CLASSES,
            )
            for target, (labels, found, _) in targets.items()
        ),
        cost=Cost(
            train_seconds=1 + number % 997 / 997,
            evaluate_seconds=0.04,
            total_seconds=1.3 + number % 997 / 997,
            images_per_second=2324.6,
            peak_memory_mb=532.5,
            trainable_parameters=66560,
        ),
        selected_epoch=15,
        fingerprints={
            "backbone": _digest("backbone"),
            "dataset": _digest(cell.dataset),
            "few_shot": _digest(f"{cell.dataset} {cell.seed}"),
        },
        environment=ENVIRONMENT,
        config_sha256=config_sha256,
        files_sha256=digests,
        weights_sha256=_digest(cell.identity) * 4,
        drawn_per_class=(16,) * CLASSES,
        code=code,
    )


def _without_values(text):
    """What decides the classes of a configuration: its lines that plug parts in."""
    return "\n".join(line for line in text.splitlines() if "@" in line)


_CODES = {}


def _shared_files(parts, text):
    """The code of the classes of a configuration, and the files that follow from it."""
    config = config_from_text(text)
    if parts not in _CODES:
        code = code_of(config)
        document = {"classes": code.classes, "files": code.files, "plugins": code.plugins}
        _CODES[parts] = dict(code.classes), _document_text(1, document, indent=None)
    operative = operative_of(config)
    settings = {"settings": dict(operative.settings), "sources": dict(operative.sources)}
    classes, code_text = _CODES[parts]
    return classes, {CODE_NAME: code_text, OPERATIVE_NAME: _document_text(1, settings)}


@functools.cache
def _epochs(epochs=15):
    lines = [
        {"epoch": n, "epochs": epochs, "lr": 0.02, "loss": 1 / n, "ce": 0.8 / n}
        for n in range(1, epochs + 1)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@functools.cache
def _names(target):
    return tuple(f"{target} class {i:02d}" for i in range(CLASSES))


def _scored(cell, target):
    """Labels, predicted classes and confidences of all test images: a level of the dataset, an
    effect of the variant, and noise of the seed.
    """
    rng = np.random.default_rng([int(cell.identity, 16), target == "new"])
    level = np.random.default_rng(_number(cell.dataset)).uniform(0.55, 0.8)
    effect = np.random.default_rng(_number(cell.variant)).normal(0, 0.02)
    labels = np.repeat(np.arange(CLASSES), IMAGES)
    hit = rng.random(labels.size) < level + effect + rng.normal(0, 0.01)
    other = (labels + rng.integers(1, CLASSES, labels.size)) % CLASSES
    found = np.where(hit, labels, other)
    return labels, found, rng.integers(20000, 65536, labels.size)


def _correct(target, labels, found, _):
    bits = np.packbits(labels == found).tobytes()
    return {
        "bits": base64.b64encode(bits).decode(),
        "num_images": int(labels.size),
        "target": target,
        "test_list": _digest(target),
    }


def _predicted(target, labels, found, confidences):
    def encoded(values):
        return base64.b64encode(values.astype("<u2").tobytes()).decode()

    return {
        "class_names": _names(target),
        "confidences": encoded(confidences),
        "labels": encoded(labels),
        "predicted": encoded(found),
        "target": target,
        "test_list": _digest(target),
    }


def _number(text):
    return int(_digest(text), 16)


@functools.cache
def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _document_text(version, document, indent=1):
    return json.dumps(with_digest({"schema_version": version, **document}), indent=indent) + "\n"


def _write_document(path, version, document):
    return _write(path, _document_text(version, document))


def _write(path, text):
    """Write a file as it is, without waiting for the disk; returns its sha256."""
    raw = text.encode()
    path.write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, default in (("variants", 50), ("datasets", 20), ("seeds", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--factorial", action="store_true")
    parser.add_argument("--no-predictions", action="store_true")
    given = parser.parse_args()
    shape = (given.variants, given.datasets, given.seeds)
    text = grid_text(*shape, study=given.folder.name, factorial=given.factorial)
    made = planned_grid(given.folder.with_suffix(".gin"), text)
    write_untrained(made, given.folder, predictions=not given.no_predictions)
    print(f"{given.folder}: {len(made.cells)} cells, {len(made.runs)} runs; {SHIPPED.folder}")


if __name__ == "__main__":
    main()

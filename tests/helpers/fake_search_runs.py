"""The runs of fake searches. Workers import this file, so it imports next to nothing.

What a run scores follows from its configuration alone; the name of the shots file asks for trouble.
"""

import json
import math
import os
import signal
import time
from pathlib import Path

from core.store.record import Cost, Evaluation, RunRecord, to_json

PER_CLASS = 5000


def settings(text):
    pairs = (line.partition(" = ") for line in text.splitlines())
    return {key: value for key, equals, value in pairs if equals}


def share(values, target, seed, place):
    """A smooth function with a best place, and noise that belongs to the place and the seed."""
    lr, alpha = float(values["SGD.lr"]), float(values.get("LinearAggregation.alpha", 0.2))
    slots = int(values.get("EmaCache.num_slots", 1))
    peak = {"base": 0.01, "all": 0.01, "new": 0.003}[target]
    height = 0.8 - 0.1 * math.log10(lr / peak) ** 2 - 0.2 * (alpha - 0.3) ** 2
    return height + 0.02 * math.log10(slots) + 0.01 * math.sin(7 * seed + len(place) + 100 * lr)


def search_run(payload, on_progress):
    """The entry. Leaves a file a call in ``executions`` of the search folder."""
    run_dir = Path(payload["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    folder = run_dir.parent / "executions"
    folder.mkdir(exist_ok=True)
    (folder / f"{payload['identity']}-{os.getpid()}-{time.time_ns()}").touch()
    values = settings(payload["config"])
    behave(values, run_dir)
    (run_dir / "config.gin").write_text(payload["config"])
    return json.loads(to_json(record_of(payload, values)))


def behave(values, run_dir):
    """Trouble that a setting asks for: it is read from the name of the shots file."""
    trouble = values.get("experiment.shots_file", "''").strip("'")
    if trouble == "crash":
        raise RuntimeError("this run always fails")
    if trouble == "hang":
        time.sleep(30)
    if trouble == "slow":
        time.sleep(0.02)
    if trouble == "kill once" and not (run_dir / "killed").exists():
        (run_dir / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def record_of(payload, values):
    protocol = values.get("experiment.protocol", "base_to_new").strip("'")
    seed = int(values["experiment.seed"])
    diverged = values.get("experiment.shots_file") == "'diverge'"
    targets = ("all",) if protocol in ("validation", "few_shot") else ("base", "new")
    seconds = math.nan if values.get("experiment.shots_file") == "'no number'" else 1.0
    evaluations = tuple(
        Evaluation(
            target=target,
            dataset=values["experiment.dataset"].strip("'"),
            classes=target,
            class_names=("one", "two"),
            correct=(round(PER_CLASS * share(values, target, seed, values["experiment.dataset"])),)
            * 2,
            total=(PER_CLASS, PER_CLASS),
        )
        for target in targets
    )
    return RunRecord(
        identity=payload["identity"],
        variant=payload["variant"],
        factors=payload["factors"],
        dataset=values["experiment.dataset"].strip("'"),
        protocol=protocol,
        regime="inductive",
        selection="last",
        seed=seed,
        shots=16,
        status="diverged" if diverged else "finished",
        message="the loss is nan in epoch 1" if diverged else "",
        evaluations=() if diverged else evaluations,
        cost=Cost(
            train_seconds=seconds,
            evaluate_seconds=0.5,
            total_seconds=1.5,
            images_per_second=10.0,
            peak_memory_mb=1.0,
            trainable_parameters=int(values.get("EmaCache.num_slots", 1)),
        ),
    )


def search_run_that_fails_on_beta(payload, on_progress):
    """A run that works on one dataset only."""
    if "'beta'" in payload["config"]:
        raise ValueError("no luck with beta")
    return search_run(payload, on_progress)

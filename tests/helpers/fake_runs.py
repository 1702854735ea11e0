"""Runs that train nothing: entry functions for workers, and plans made of their cells.

What a fake run does follows from the first word of its variant's name: "ok", "slow", "nap",
"fail", "refuse", "diverge", "kill" (once), "die" (always), "stop" (its process, once), "stall"
(always), "fill" (the disk), "loud" (prints much, and closes its output), "patient" (waits for a
file "go"), "assert" (on the device), "full" (its memory).
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from core.lockstep import Position
from core.machine import MEASURED_THREADS_VARIABLE, workers_of_device
from core.store.names import SHARE_FOLDER
from core.store.record import Cost, Evaluation, RunRecord, to_json, write_record
from experiments.study.planner import Cell, Grid, Plan, Variant
from tests.helpers.fault_programs import wait_for

CONFIG = """experiment.dataset = {dataset!r}
experiment.method = @ZeroShot
experiment.optimizer = None
experiment.refiner = @NullRefiner
experiment.schedule = None
experiment.seed = {seed!r}
"""

ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later."
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 3 GiB."
LOST = "CUDA error: no CUDA-capable device is detected"


def fake_plan(variants, datasets=("alpha", "beta"), seeds=(1, 2), bundled=False):
    """A full plan over fake variants, without a configuration behind it; ``bundled`` where the runs
    of one dataset and seed may advance side by side.
    """
    grid = Grid(
        study="fake",
        datasets=tuple(datasets),
        seeds=tuple(seeds),
        baseline=variants[0],
        variants={name: {} for name in variants},
    )
    bundles = {(d, s): f"{d} {s}" if bundled else "" for d in datasets for s in seeds}
    cells = [
        replace(fake_cell(v, d, s), bundle=bundle)
        for (d, s), bundle in bundles.items()
        for v in variants
    ]
    return Plan(
        grid=grid,
        variants=tuple(Variant(name=name, bindings={"Fake.variant": name}) for name in variants),
        cells=tuple(cells),
    )


def fake_cell(variant, dataset, seed):
    identity = hashlib.sha256(f"{variant} {dataset} {seed}".encode()).hexdigest()[:12]
    return Cell(
        variant=variant,
        dataset=dataset,
        seed=seed,
        identity=identity,
        config_text=CONFIG.format(dataset=dataset, seed=seed),
        factors={"Fake.variant": repr(variant)},
    )


def fake_run(payload, on_progress):
    """The entry of a fake study. Leaves a file a call in ``executions`` of the study folder."""
    run_dir = Path(payload["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    count(place_of(run_dir) / "executions", payload["identity"])
    on_progress({"epoch": 1, "epochs": 2, "loss": 0.5})
    behave(payload["variant"].split()[0], run_dir)
    (run_dir / "config.gin").write_text(payload["config"])
    status = "diverged" if payload["variant"].startswith("diverge") else "finished"
    return as_plain(fake_record(payload, status))


def behave(kind, run_dir):
    if kind == "assert":
        raise RuntimeError(ASSERT)
    if kind == "full":
        raise RuntimeError(OUT_OF_MEMORY)
    if kind == "fail":
        raise RuntimeError("this run always fails")
    if kind == "refuse":
        raise ValueError("this configuration is wrong")
    if kind == "slow":
        time.sleep(0.1)
    if kind == "nap":
        time.sleep(0.7)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stall" or (kind == "stop" and not (run_dir / "stopped").exists()):
        (run_dir / "stopped").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "fill":
        with (run_dir / "weights.safetensors").open("wb", buffering=0) as file:
            file.write(bytes(256 * 1024))
            file.write(bytes(256 * 1024))
    if kind == "loud":
        for _ in range(2000):
            print("x" * 10_000)
        os.close(1)
        os.close(2)
    if kind == "patient":
        while not (place_of(run_dir) / "go").exists():
            time.sleep(0.02)
    if kind == "kill" and not (run_dir / "killed").exists():
        (run_dir / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def overtaken(payload, on_progress):
    """A run that takes so long that others have made it meanwhile, and removed what they shared."""
    run_dir = Path(payload["run_dir"])
    study_dir = place_of(run_dir)
    write_record(study_dir / payload["identity"], fake_record(payload))
    shutil.rmtree(study_dir / SHARE_FOLDER)
    if payload["variant"].startswith("fail"):
        raise RuntimeError("the folder has gone")
    return as_plain(fake_record(payload, "diverged"))


def robbed(payload, on_progress):
    """A run during which the folder is removed that a file STUDY.remove names, once; it writes its
    own files all the same.
    """
    run_dir = Path(payload["run_dir"])
    order = Path(f"{place_of(run_dir)}.remove")
    if order.exists():
        shutil.rmtree(order.read_text())
        order.unlink()
    return fake_run(payload, on_progress)


def place_of(run_dir):
    """The study folder of a run, also of one that several drivers share."""
    return run_dir.parents[2] if run_dir.parents[1].name == SHARE_FOLDER else run_dir.parent


def refuse_and_write(payload, on_progress):
    """A run that writes other weights and is then refused."""
    run_dir = Path(payload["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "weights.safetensors").write_text("other")
    raise ValueError("this configuration is wrong")


def count(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{os.getpid()}-{time.time_ns()}").touch()


def executions(study_dir):
    """How often each identity was run."""
    names = [path.name.partition("-")[0] for path in (study_dir / "executions").glob("*")]
    return {name: names.count(name) for name in names}


def as_plain(record):
    return json.loads(to_json(record))


def fake_record(payload, status="finished"):
    """A record that depends on the identity alone."""
    number = int(payload["identity"], 16)
    evaluations = tuple(
        Evaluation(
            target=target,
            dataset="fake",
            classes=target,
            class_names=("one", "two"),
            correct=(number % divisor, number % 7),
            total=(20, 20),
        )
        for target, divisor in (("base", 19), ("new", 17))
    )
    return RunRecord(
        identity=payload["identity"],
        variant=payload["variant"],
        factors=payload["factors"],
        dataset="fake",
        protocol="base_to_new",
        regime="inductive",
        selection="last",
        seed=1,
        shots=16,
        status=status,
        evaluations=evaluations if status == "finished" else (),
        cost=Cost(
            train_seconds=1.0,
            evaluate_seconds=1.0,
            total_seconds=2.0,
            images_per_second=10.0,
            peak_memory_mb=1.0,
            trainable_parameters=3,
        ),
    )


def describe_process(payload, on_progress):
    """What a worker process looks like from inside."""
    print("printed by the job")
    return {
        "pid": os.getpid(),
        "modules": sorted(sys.modules),
        "threads": os.environ["OMP_NUM_THREADS"],
        "mkl_threads": os.environ["MKL_NUM_THREADS"],
        "waiting": os.environ.get("OMP_WAIT_POLICY"),
        "measured_threads": os.environ[MEASURED_THREADS_VARIABLE],
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "sharing": workers_of_device(),
    }


def act(payload, on_progress):
    """Do what the payload says, once it was written down that it was begun."""
    if "mark" in payload:
        count(Path(payload["mark"]), str(os.getpid()))
    if payload["do"] == "sleep":
        time.sleep(payload["seconds"])
    elif payload["do"] == "spin":
        while True:
            pass
    elif payload["do"] == "raise":
        raise RuntimeError(payload.get("words", "no luck"))
    elif payload["do"] == "refuse":
        raise ValueError("not like this")
    elif payload["do"] == "exit":
        os._exit(7)
    elif payload["do"] == "report":
        for epoch in range(3):
            time.sleep(0.25)
            on_progress({"epoch": epoch, "loss": float("nan")})
    elif payload["do"] == "return garbage":
        return {"object": object()}
    return {"pid": os.getpid(), "value": payload.get("value")}


def compute(payload, on_progress):
    """A job on the GPU of its process, which it shares with those that are in its folder below
    ``inside``. ``do``: "assert" poisons the process for later jobs too, "need it whole" is out of
    memory beside others, which the first call waits for and then makes the file ``crowded``; "need
    more" always is. Jobs with ``after_crowd`` wait for that file. A GPU of ``lost`` is not there.
    """
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    if gpu in payload.get("lost", ()):
        raise RuntimeError(LOST)
    if poisoned or payload["do"] == "assert":
        poisoned.append(payload["do"])
        raise RuntimeError(ASSERT)
    folder = Path(payload["inside"]) / gpu
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / payload["name"]
    mine.touch()
    try:
        crowded = folder.parent.with_name("crowded")
        if payload["do"] == "need it whole" and not crowded.exists():
            wait_for(lambda: len(list(folder.iterdir())) > 1)
            crowded.touch()
            raise RuntimeError(OUT_OF_MEMORY)
        if payload.get("after_crowd"):
            wait_for(crowded.exists)
        time.sleep(payload.get("seconds", 0))
        beside = sorted(path.name for path in folder.iterdir() if path != mine)
        if payload["do"] == "need more" or (payload["do"] == "need it whole" and beside):
            raise RuntimeError(OUT_OF_MEMORY)
    finally:
        mine.unlink()
    return {"pid": os.getpid(), "gpu": gpu, "beside": beside}


poisoned = []


def walk(payload, on_progress):
    """Walk through the steps of the payload and note each in the file ``trace``; "at" the step
    given there, "do" something. ``first`` is the step that a resumed run begins with.
    """
    name, trace = payload["name"], Path(payload["trace"])
    for step in range(payload.get("first", 0), payload["steps"]):
        yield Position(1, step)
        with trace.open("a") as file:
            file.write(f"{name}{step} ")
        print(f"{name} is at {step}")
        if step == payload.get("at"):
            act(payload, on_progress)
    return {"lockstep": payload.get("lockstep", 1), "pid": os.getpid(), "name": name}

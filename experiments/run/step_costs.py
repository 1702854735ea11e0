"""What a training step of every method costs, as a multiple of CoOp's, and the shipped figures.

A step is forward, backward and update on 32 images of the embedded backbone among 100 classes, the
images encoded anew as under fresh augmentation.
"""

import json
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from core.clip.backbone import load_clip
from core.clip.catalog import MOSAIC
from core.config import registered_classes
from core.seeding import Seeds
from core.store.atomic import write_atomic
from core.train.fit import train_step
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.optimizers import SGD
from core.types import Batch
from experiments.run.environment import describe_environment
from experiments.run.method_facts import NUM_CLASSES, ready_to_train
from refiners.null_refiner import NullRefiner

SHIPPED_COSTS = Path(__file__).resolve().parents[1] / "configs" / "step_costs.json"
BASE, BATCH = "CoOp", 32
ROUNDS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Where and when the steps were measured, CoOp's milliseconds, and every method's multiple.

    Methods that make no steps are left out.
    """

    device: str
    date: str
    torch: str
    threads: int
    base_ms: float
    ratios: Mapping[str, float]


def read_step_costs(path: Path = SHIPPED_COSTS) -> StepCosts:
    """The figures of a file."""
    return StepCosts(**json.loads(path.read_text()))


def write_step_costs(path: Path, costs: StepCosts) -> None:
    """Write figures as JSON."""
    write_atomic(path, json.dumps(asdict(costs), indent=1) + "\n")


def measure_step_costs(device: str) -> StepCosts:
    """Measure a step of every registered method, after one that is not timed. Methods take turns,
    so that a busy moment of the machine touches all of them; the median over rounds counts.
    """
    entries = registered_classes("method")
    learning = [entry for entry in entries if _makes_steps(entry.cls)]
    steps = {entry.name: _Step.of(entry.name, device) for entry in learning}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            step.seconds()
            seconds[name].append(step.seconds())
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return StepCosts(
        device=str(describe_environment(device)["device"]),
        date=datetime.now(UTC).date().isoformat(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        base_ms=round(1000 * medians[BASE], 1),
        ratios={name: round(value / medians[BASE], 2) for name, value in medians.items()},
    )


@dataclass(frozen=True)
class _Step:
    """A method with what a step of it takes."""

    model: RefinedMethod
    objective: Objective
    optimizer: torch.optim.Optimizer
    batch: Batch
    device: str

    @classmethod
    def of(cls, name: str, device: str) -> "_Step":
        """A method on a device."""
        clip = load_clip(MOSAIC)
        method, batch = ready_to_train(name, clip, num_classes=NUM_CLASSES, batch_size=BATCH)
        model = RefinedMethod(method, NullRefiner(method.output(), Seeds(0)))
        objective = Objective(method.loss_terms(), {}, method.criterion, method.guide_terms())
        model, batch = model.to(device), _moved(batch, device)
        groups = [{"params": list(group.parameters)} for group in model.parameter_groups()]
        return cls(model, objective, SGD(lr=1e-5).build(groups), batch, device)

    def seconds(self) -> float:
        """The duration of one step: of the GPU's clock, or of the CPU's work, whatever else it
        does.
        """
        gpu = self.device.startswith("cuda")
        clock = time.perf_counter if gpu else time.process_time
        started = clock()
        train_step(self.model, self.objective, self.optimizer, self.batch, nullcontext())
        if gpu:
            torch.cuda.synchronize()
        return clock() - started


def _makes_steps(method: Any) -> bool:
    return bool(method.trains and method.trains_by_gradient)


def _moved(batch: Batch, device: str) -> Batch:
    assert batch.pixels is not None
    return replace(
        batch,
        labels=batch.labels.to(device),
        pixels=batch.pixels.to(device),
        views=tuple(_moved(view, device) for view in batch.views),
    )

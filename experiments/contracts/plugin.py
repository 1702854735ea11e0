"""The contracts of everything that a plug-in registers, and the presets beside it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.config import REQUIRED, Reference, RegisteredClass, lookup
from core.config.library import PLUGIN_PRESETS
from core.plugins import Plugin
from core.seeding import Seeds
from core.train.fit import Budget, fit
from core.train.optimizers import SGD, Constant
from experiments.configs import read_config_file
from experiments.contracts.contract import Case, Check, problem_of, require, title_of
from experiments.contracts.methods import METHOD_CHECKS, MethodCase
from experiments.contracts.parts import (
    HOST,
    PART_CHECKS,
    REFINER_CHECKS,
    SLOTS,
    PartCase,
    RefinerCase,
    check_the_refiner_works_on_top,
)
from experiments.contracts.tiny_model import (
    ListBatches,
    batch,
    make_method,
    make_model,
    objective_of,
    part,
    shared_tiny_clip,
)
from experiments.run.dataset_check import DataSettings, check_dataset
from experiments.run.runtime import Runtime


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """How a check ended: ``problem`` is "" where it passed."""

    subject: str
    check: str
    problem: str


def check_plugin(plugin: Plugin, runtime: Runtime) -> Iterator[CheckOutcome]:
    """The outcome of every check of every class, dataset and preset of a plug-in, one by one."""
    for name in plugin.classes:
        yield from _check_class(lookup(name), plugin)
    for name in plugin.datasets:
        yield from _outcomes(name, DatasetCase(name, runtime), DATASET_CHECKS)
    for path in presets_of(plugin):
        yield from _outcomes(path.name, path, (check_can_be_read,))


def presets_of(plugin: Plugin) -> list[Path]:
    """The configurations beside a plug-in."""
    folders = (plugin.folder, plugin.folder / PLUGIN_PRESETS)
    return [path for folder in folders for path in sorted(folder.glob("*.gin"))]


def _check_class(entry: RegisteredClass, plugin: Plugin) -> Iterator[CheckOutcome]:
    if entry.kind == "method":
        method = MethodCase(entry.name, _needed_settings(entry, plugin))
        checks = (*METHOD_CHECKS, check_the_refiner_works_on_top)
        yield from _outcomes(entry.name, method, checks)
    elif entry.kind == "refiner":
        yield from _outcomes(entry.name, RefinerCase(entry.name), REFINER_CHECKS)
    elif entry.kind in SLOTS.values():
        slots = [slot for slot, kind in SLOTS.items() if kind == entry.kind]
        for slot in slots:
            subject = entry.name if len(slots) == 1 else f"{entry.name} as {slot}"
            yield from _outcomes(subject, PartCase(slot, entry.name), PART_CHECKS)
    else:
        yield from _outcomes(entry.name, entry, OTHER_CHECKS.get(entry.kind, (check_is_told,)))


def _outcomes(subject: str, case: Case, checks: tuple[Check[Case], ...]) -> Iterator[CheckOutcome]:
    for check in checks:
        yield CheckOutcome(subject, title_of(check), problem_of(check, case))


def _needed_settings(entry: RegisteredClass, plugin: Plugin) -> Mapping[str, Any]:
    """Settings without a default, from a preset beside the plug-in that uses the method."""
    needed = {name for name, p in entry.parameters.items() if p.default is REQUIRED}
    for path in presets_of(plugin) if needed else ():
        bound = read_config_file(path).bindings
        if bound.get("experiment.method") == Reference(entry.name):
            own = {name: bound[key] for name in needed if (key := f"{entry.name}.{name}") in bound}
            return {n: part(v.name) if isinstance(v, Reference) else v for n, v in own.items()}
    return {}


def check_is_told(entry: RegisteredClass) -> None:
    """The docstring begins with a summary."""
    require(bool(entry.summary), "the docstring must begin with a line of summary")


def check_trains(entry: RegisteredClass) -> None:
    """An epoch with an optimizer or a schedule ends with finite losses and other weights."""
    made: Any = part(entry.name)()
    optimizer, schedule = (made, Constant()) if entry.kind == "optimizer" else (SGD(), made)
    model = make_model(make_method(HOST, shared_tiny_clip()))
    before = [parameter.detach().clone() for parameter in model.trainable()]
    losses: list[float] = []
    fit(
        model,
        objective_of(model),
        ListBatches([batch(seed=3), batch(seed=4)]),
        Budget(epochs=3, optimizer=optimizer, schedule=schedule),
        Seeds(0),
        log=lambda epoch: losses.append(epoch["loss"]),
    )
    require(len(losses) == 3 and all(map(math.isfinite, losses)), f"the losses are {losses}")
    pairs = zip(before, model.trainable(), strict=True)
    require(any(not torch.equal(old, new) for old, new in pairs), "training changed no weight")


OTHER_CHECKS: Mapping[str, tuple[Check[RegisteredClass], ...]] = {
    "optimizer": (check_is_told, check_trains),
    "schedule": (check_is_told, check_trains),
}


@dataclass(frozen=True, slots=True)
class DatasetCase:
    """A registered dataset, and where it is read."""

    name: str
    runtime: Runtime


def check_is_read_as_data_check_does(case: DatasetCase) -> None:
    """``data check`` finds no problem, every image opens, and reading again is the same."""
    found, again = (
        check_dataset(case.name, case.runtime, DataSettings(), decode=lambda done, total: None)
        for _ in range(2)
    )
    require(not found["problem"], str(found["problem"]))
    counts = {name: found[name]["n"] for name in ("train", "test")}
    require(all(counts.values()), f"training and test images are needed, got {counts}")
    for name in ("train", "val", "test"):
        require(found[name] == again[name], f"the {name} list differs when it is read again")


def check_has_base_and_new_classes(case: DatasetCase) -> None:
    """Both halves of the classes can be scored."""
    for classes in ("base", "new"):
        found = check_dataset(case.name, case.runtime, DataSettings(classes=classes))
        require(not found["problem"], str(found["problem"]))
        require(found["test"]["n"] > 0, f"there are no test images of the {classes} classes")


DATASET_CHECKS: tuple[Check[DatasetCase], ...] = (
    check_is_read_as_data_check_does,
    check_has_base_and_new_classes,
)


def check_can_be_read(path: Path) -> None:
    """Names and values of a configuration are valid."""
    read_config_file(path)

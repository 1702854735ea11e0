"""What follows from a record: which evaluations are of its own dataset, where shots were short, on
which devices it was made.
"""

from collections.abc import Mapping
from typing import Any

from core.store.record import Evaluation, RunRecord

FOLDER = "folder/"
DEVICES = "devices"
"""In the environment of a run that went on on another device: all of them, in order."""
LIBRARIES = {"driver": "driver", "cuda": "CUDA", "cudnn": "cuDNN"}
FAULT = "fault"
"""In the environment of a failed run: what its error said of the device (``Fault``)."""


def is_own(record: RunRecord, scored: Evaluation) -> bool:
    """Whether an evaluation is of the dataset that the run was trained on."""
    return scored.dataset == _own_name(record)


def own_scores(record: RunRecord) -> tuple[Evaluation, ...]:
    """The evaluations of the run's own dataset."""
    return tuple(scored for scored in record.evaluations if is_own(record, scored))


def target_scores(record: RunRecord) -> tuple[Evaluation, ...]:
    """The evaluations of other datasets."""
    return tuple(scored for scored in record.evaluations if not is_own(record, scored))


def lacked_memory(record: RunRecord) -> bool:
    """Whether a run failed because memory was exhausted: another time there may be more."""
    return record.status == "failed" and record.environment.get(FAULT) == "memory"


def devices_of(record: RunRecord) -> tuple[str, ...]:
    """The devices that made a run, in order: one, or several where its training went on on another.
    GPUs are named by their model, and by their libraries as well where these alone differ. Empty
    where the record names none.
    """
    parts = record.environment.get(DEVICES) or [record.environment]
    names = [device_name(part) for part in parts]
    if len(set(names)) < len(names):
        names = [_with_libraries(n, part) for n, part in zip(names, parts, strict=True)]
    return tuple(name for name in names if name)


def device_name(environment: Mapping[str, Any]) -> str:
    """The model of the GPU of a run, or what its device is called; "" where that is unknown."""
    gpu = environment.get("gpu")
    if isinstance(gpu, Mapping) and gpu.get("name"):
        return str(gpu["name"])
    device = str(environment.get("device") or "")
    kind, _, model = device.partition(" (")  # of earlier versions, which recorded nothing else
    is_gpu = kind.partition(":")[0] == "cuda" and model.endswith(")")
    return model.removesuffix(")") if is_gpu else device


def _with_libraries(name: str, environment: Mapping[str, Any]) -> str:
    gpu = environment.get("gpu")
    known = gpu if isinstance(gpu, Mapping) else {}
    found = ", ".join(f"{word} {known[key]}" for key, word in LIBRARIES.items() if known.get(key))
    return f"{name} ({found})" if found else name


def short_counts(record: RunRecord) -> tuple[int, ...]:
    """The training images of every trained class that has fewer of them than shots."""
    return tuple(count for count in record.drawn_per_class if count < record.shots)


def own_target(record: RunRecord, scored: Evaluation) -> str:
    """What an evaluation of the run's own dataset is called: "base", "new" or "all"."""
    return scored.target if scored.dataset == record.dataset else scored.classes


def _own_name(record: RunRecord) -> str:
    """The name under which a run scored its own dataset, which it always does, and first.

    It is that of the record, unless a folder was typed in another way before names of datasets
    were canonical.
    """
    names = [scored.dataset for scored in record.evaluations]
    typed = record.dataset not in names and record.dataset.startswith(FOLDER)
    return names[0] if names and typed else record.dataset

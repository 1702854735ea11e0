"""The images that a run learns from: the few-shot draw, or the images listed in a file."""

from collections import Counter
from pathlib import Path

from core.data.dataset import Dataset
from core.data.fewshot import few_shot
from core.data.shots import with_shots
from core.data.validation_only import validation_only
from experiments.run.experiment import Experiment
from experiments.run.protocols import Protocol


def drawn(settings: Experiment, protocol: Protocol, full: Dataset) -> Dataset:
    """The dataset with the training images of a run; without its test images where the protocol
    scores validation images.
    """
    dataset = _drawn(settings, full)
    if protocol.judged_by != "validation":
        return dataset
    if settings.selection not in protocol.selections:
        raise ValueError(
            f"the protocol {protocol.name!r} scores validation images, got "
            f"experiment.selection = {settings.selection!r}; use 'last'"
        )
    return validation_only(dataset)


def _drawn(settings: Experiment, full: Dataset) -> Dataset:
    if settings.shots_file is None:
        return few_shot(full, shots=settings.shots, seed=settings.seed)
    dataset = with_shots(full, shots_path(settings))
    most = max(Counter(item.label for item in dataset.train).values())
    if most != settings.shots:
        raise ValueError(
            f"experiment.shots = {settings.shots}, but {settings.shots_file} lists up to {most} "
            f"training images per class; set experiment.shots = {most}"
        )
    return dataset


def shots_path(settings: Experiment) -> Path:
    """The file that lists the training images. Raises ValueError where it is missing."""
    path = Path(str(settings.shots_file)).expanduser()
    if not path.is_file():
        raise ValueError(f"experiment.shots_file {path} does not exist; give a JSON list of images")
    return path

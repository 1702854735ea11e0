"""Where the state of a run's training is kept, and what must agree for it to go on.

Another GPU, driver or version of CUDA may go on: a queue does not always give the same machine
again. The record then names all of them.
"""

from pathlib import Path

import torch

from core.store.code import RunCode
from core.store.names import TRAINING_NAME
from core.train.resume import TrainingCheckpoints
from experiments.run.environment import device_facts
from experiments.run.experiment import Experiment


def checkpoints_of(
    settings: Experiment, run_dir: Path, identity: str, device: str, code: RunCode
) -> TrainingCheckpoints:
    """The checkpoints of a run on a device."""
    kind = torch.device(device).type
    key = {"identity": identity, "torch": torch.__version__, "device": kind, "code": code.hash}
    place = run_dir / TRAINING_NAME
    return TrainingCheckpoints(place, key, settings.checkpoint_every, device_facts(device))

"""The state of a training between two epochs, in one file, so that it goes on after a kill.

Every random number of an epoch is derived from the seed and the epoch, so that a training that goes
on from such a file ends bitwise as one that was never interrupted. The file is safetensors with a
JSON header; it holds a digest of everything in it, and the key of the run that it belongs to.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from core.store.atomic import write_atomic
from core.store.documents import parse_json
from core.store.run_facts import DEVICES
from core.tensor_files import read_safetensors

VERSION = 1
HEADER = "refinelab"
AGAIN = "training starts again from epoch 1"

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainingState:
    """Everything that later epochs depend on: tensors by name, and plain data for JSON."""

    epoch: int
    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix.``, without it."""
        start = f"{prefix}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}


class TrainingCheckpoints:
    """The file of one run. ``every`` 0 writes none; ``key`` says which run and which code it is.

    ``device`` says what trains now: another GPU, driver or CUDA may go on. ``devices`` are all that
    trained a part, in order; without ``device`` none.
    """

    def __init__(
        self,
        path: Path,
        key: Mapping[str, str],
        every: int,
        device: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.key = dict(key)
        self.every = every
        self.devices: list[Mapping[str, Any]] = [] if device is None else [device]

    def is_due(self, epoch: int, last: int) -> bool:
        """Whether the state after this epoch is kept; that after the last one is, for a kill during
        the evaluation.
        """
        return bool(self.every) and (epoch % self.every == 0 or epoch == last)

    def save(self, state: TrainingState) -> None:
        """Replace the file, atomically."""
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in state.tensors.items()}
        header = {
            "version": VERSION,
            "key": self.key,
            "epoch": state.epoch,
            DEVICES: self.devices,
            **state.plain,
        }
        text = json.dumps(header)  # the log keeps the order of its keys
        sealed = json.dumps({"content": text, "digest": _digest(text, tensors)})
        write_atomic(self.path, save(tensors, metadata={HEADER: sealed}))

    def load(self) -> TrainingState | None:
        """The state to go on from, or None; says why a file cannot be used."""
        if not self.path.is_file():
            return None
        try:
            header, tensors = self._read()
        except (ValueError, KeyError, TypeError, SafetensorError, OSError) as error:
            log.warning("%s cannot be used (%s): %s", self.path, error, AGAIN)
            return None
        if (differs := self._other_key(header)) is not None:
            log.warning("%s is of a run with another %s: %s", self.path, differs, AGAIN)
            return None
        epoch, earlier = header.pop("epoch"), header.pop(DEVICES, [])
        self.devices = [*earlier, *(here for here in self.devices if here not in earlier)]
        return TrainingState(epoch=epoch, tensors=tensors, plain=header)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The checked content of the file."""
        with safe_open(self.path, framework="pt") as file:
            sealed = parse_json((file.metadata() or {})[HEADER])
        tensors = read_safetensors(self.path, "checkpoint")
        text = sealed["content"]
        if sealed["digest"] != _digest(text, tensors):
            raise ValueError("it is damaged: its digest does not match")
        header: dict[str, Any] = parse_json(text)
        if header.pop("version") != VERSION:
            raise ValueError("another version of RefineLab wrote it")
        return header, tensors

    def _other_key(self, header: dict[str, Any]) -> str | None:
        """What of the key is another one than this run's."""
        stored = header.pop("key")
        names = sorted(stored.keys() | self.key.keys())
        return next((n for n in names if stored.get(n) != self.key.get(n)), None)

    def moved(self) -> dict[str, Any]:
        """What a record says of a training that went on on another device: all of them."""
        return {DEVICES: self.devices} if len(self.devices) > 1 else {}

    def remove(self) -> None:
        """Remove the file, and what a kill during a write left."""
        for path in (self.path, *self.path.parent.glob(f".{self.path.name}.*")):
            path.unlink(missing_ok=True)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the header and of every tensor: safetensors does not notice a changed byte."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimizer keeps of each parameter: tensors by ``number.name``, and numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            elif value is None or isinstance(value, int | float | bool):
                numbers[f"{number}.{name}"] = value
            else:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {name!r}, a {type(value).__name__}, which a "
                    "checkpoint cannot hold; set experiment.checkpoint_every = 0"
                )
    return tensors, numbers


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Give an optimizer back what it kept."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})

"""Replays sets of reference vectors with the methods and refiners and compares every tensor.

Every tensor of a set is used: those that describe the model, parameters or inputs are loaded; all
others must be reproduced.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from experiments.verify.cocoop import replay_cocoop
from experiments.verify.coop import replay_coop
from experiments.verify.ivlp import replay_ivlp
from experiments.verify.promptkd import replay_promptkd, replay_textrefiner_kd
from experiments.verify.promptsrc import replay_promptsrc
from experiments.verify.sep import replay_sep
from experiments.verify.text_refiner import replay_textrefiner
from experiments.verify.vectors import Named, Vectors

CASES: Mapping[str, Callable[[Vectors], Named]] = {
    "coop": replay_coop,
    "cocoop": replay_cocoop,
    "ivlp": replay_ivlp,
    "promptsrc": replay_promptsrc,
    "promptkd": replay_promptkd,
    "sep": replay_sep,
    "textrefiner": replay_textrefiner,
    "textrefiner_kd": replay_textrefiner_kd,
}

FLOAT64_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 2e-7
ZERO_TOLERANCE = 1e-10  # where the recorded tensor is rounding noise around an exact zero


@dataclass(frozen=True)
class Difference:
    """The deviation of one tensor from its recorded value; ``allowed`` is the tolerance."""

    name: str
    difference: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Outcome:
    """The result of one set; ``problem`` is set when it could not be replayed at all."""

    name: str
    status: str
    differences: tuple[Difference, ...] = ()
    problem: str = ""


def find_sets(folder: Path) -> list[Path]:
    """The ``.json`` files of all sets in a folder. Raises ValueError where there is none."""
    found = [p for p in sorted(folder.glob("*.json")) if p.with_suffix(".safetensors").is_file()]
    if not found:
        raise ValueError(
            f"{folder} holds no reference vectors; a set is NAME.json with NAME.safetensors"
        )
    return found


def verify_set(path: Path) -> Outcome:
    """Replay one set, named ``SOURCE_CASE``, and compare every recorded tensor."""
    case = path.stem.split("_", 1)[-1]
    replay = CASES.get(case)
    if replay is None:
        return Outcome(path.stem, "not implemented")
    try:
        raw = json.loads(path.read_text())
        vectors = Vectors(path.stem, raw["constants"], load_file(path.with_suffix(".safetensors")))
        return _compare(vectors, dict(replay(vectors)))
    except (SafetensorError, KeyError, ValueError, RuntimeError, IndexError) as error:
        return Outcome(path.stem, "failed", problem=f"{type(error).__name__}: {error}")


def _compare(vectors: Vectors, computed: Mapping[str, Tensor]) -> Outcome:
    given = ("clip.", "param.", "in.")
    expected = [k for k in vectors.tensors if not k.startswith(given) or k in computed]
    if absent := [k for k in expected if k not in computed]:
        return Outcome(vectors.name, "failed", problem=f"recorded but not computed: {absent}")
    differences = tuple(_difference(k, computed[k], vectors.tensors[k]) for k in sorted(expected))
    ok = all(d.ok for d in differences)
    return Outcome(vectors.name, "matched" if ok else "failed", differences)


def _difference(name: str, computed: Tensor, recorded: Tensor) -> Difference:
    """The largest absolute difference, with a tolerance relative to the largest recorded entry."""
    if computed.shape != recorded.shape:
        return Difference(f"{name} {tuple(computed.shape)}", float("inf"), 0.0)
    if not recorded.is_floating_point():
        return Difference(name, float((computed.long() != recorded.long()).sum()), 0.0)
    tolerance = FLOAT64_TOLERANCE if recorded.dtype == torch.float64 else FLOAT32_TOLERANCE
    largest = float(recorded.abs().max())
    gap = (computed.detach().double() - recorded.double()).abs().nan_to_num(nan=float("inf"))
    floor = ZERO_TOLERANCE if largest < ZERO_TOLERANCE else 1e-12
    return Difference(name, float(gap.max()), tolerance * largest + floor)

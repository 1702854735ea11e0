"""The learned state of a run in one safetensors file: parameters and saved buffers only."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.finite import check_finite, check_real
from core.interfaces import Method, Refiner
from core.store.atomic import write_atomic
from core.store.checksums import file_sha256
from core.tensor_files import is_safetensors, read_safetensors


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the module's state that is not part of a frozen backbone, by name."""
    frozen = {
        id(tensor)
        for part in module.modules()
        if isinstance(part, FrozenCLIP)
        for tensor in (*part.parameters(), *part.buffers())
    }
    state = module.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in frozen}


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """A snapshot of the learned state."""
    return {name: tensor.clone() for name, tensor in learned_state(module).items()}


@torch.no_grad()
def restore_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore a snapshot; tensors that training images shape (``Method.data_shaped``) are resized.

    Raises ValueError unless names and all other shapes match the module's.
    """
    _take_shapes(module, state)
    own = learned_state(module)
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = sorted(name for name in own if name in state and own[name].shape != state[name].shape)
    for problem, names in (
        ("lacks", missing),
        ("has unknown", unknown),
        ("has wrong shapes in", wrong),
    ):
        if names:
            raise ValueError(f"checkpoint {problem} {names[:5]}; is it from another experiment?")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def _take_shapes(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the tensors that training images shape as many rows as the snapshot has."""
    own = learned_state(module)
    for prefix, part in module.named_modules():
        for name in part.data_shaped if isinstance(part, Method | Refiner) else ():
            full = f"{prefix}.{name}" if prefix else name
            if full in state and state[full].shape[1:] == own[full].shape[1:]:
                holder, _, leaf = name.rpartition(".")
                tensor = getattr(part.get_submodule(holder), leaf)
                tensor.data = tensor.new_zeros(state[full].shape)


def save_checkpoint(path: Path, module: nn.Module) -> str:
    """Write the learned state, atomically; returns the sha256 of the file.

    Raises NotFiniteError, before anything is written, for a number that is not finite.
    """
    tensors = {name: t.cpu().contiguous() for name, t in copy_state(module).items()}
    check_finite(tensors, "the learned state", "try a lower lr")
    data = save(tensors)
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def load_checkpoint(path: Path, module: nn.Module, *, sha256: str = "") -> None:
    """Read a file of ``save_checkpoint``, which returned this ``sha256`` (empty: not known).

    Raises ValueError for a file that is missing, damaged or foreign, and for a number that is not
    finite.
    """
    if not path.exists():
        raise ValueError(f"checkpoint {path} does not exist; is the run finished?")
    if sha256 and is_safetensors(path) and file_sha256(path) != sha256:
        raise ValueError(
            f"checkpoint {path} is damaged or was replaced: its sha256 is not the one that the "
            "run's record holds; copy the run again, or rerun it"
        )
    state = read_safetensors(path, "checkpoint")
    counters = {k for k, v in learned_state(module).items() if not v.is_floating_point()}
    check_real(state, f"checkpoint {path}", whole=counters)
    check_finite(state, f"checkpoint {path}", "the file is damaged; rerun the run")
    restore_state(module, state)

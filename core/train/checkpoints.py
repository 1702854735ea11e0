"""The learned state of a run in one safetensors file: parameters and saved buffers only."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.store.atomic import write_atomic


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
    """Restore a snapshot. Raises ValueError unless names and shapes match the module's."""
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


def save_checkpoint(path: Path, module: nn.Module) -> None:
    """Write the learned state, atomically."""
    tensors = {name: t.cpu().contiguous() for name, t in copy_state(module).items()}
    write_atomic(path, save(tensors))


def load_checkpoint(path: Path, module: nn.Module) -> None:
    """Read a file of ``save_checkpoint``; ValueError for a missing, damaged or foreign file."""
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist; is the run finished?")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    restore_state(module, state)

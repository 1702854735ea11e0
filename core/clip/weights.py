"""Weight files of a backbone: the location of open_clip's downloads, and the file formats.

The format is recognized from the content of a file: safetensors; a torch file of tensors, alone or
under "state_dict"; OpenAI's TorchScript archive, and the state dict taken from one.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors.torch import load_file
from torch import Tensor

# OpenAI's archives store these numbers as tensors beside the weights; no other format does.
OPENAI_SIZES = frozenset({"input_resolution", "context_length", "vocab_size"})
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
URL_CACHE = Path("~/.cache/clip")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a local file, on the CPU. Raises ValueError for a missing or unsafe file.

    Torch files are read with ``weights_only``, so no code in them runs. A TorchScript archive
    cannot be read that way. ``torch.jit.load`` unpickles no Python class, but what it loads is a
    program; only the program's tensors are used, and none of its code is called.
    """
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist; give a file or a pretrained tag")
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        if _is_torchscript(path):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except Exception as error:
        raise _unreadable(path, error) from error
    loaded = load_torch(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return tensors_of(state)


def load_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, read with ``weights_only``. Raises ValueError where that fails."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, without the prefix added by training on several devices."""
    named = {str(key).removeprefix("module."): value for key, value in state.items()}
    return {k: torch.as_tensor(v) for k, v in named.items() if isinstance(v, Tensor | int)}


def is_openai(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict comes from an OpenAI archive: its model has quick-GELU."""
    return set(state) >= OPENAI_SIZES


def cached_file(source: Mapping[str, Any]) -> Path | None:
    """The downloaded file of a pretrained tag, or None; does not use the network.

    ``source`` is open_clip's description of the tag. The file is looked up in the cache of the
    Hugging Face hub, which open_clip prefers, and in the folder that OpenAI's own code uses.
    """
    repository, _, file = source.get("hf_hub", "").rpartition("/")
    names = (file.rsplit(".", 1)[0] + ".safetensors", file) if file else HUB_FILES
    for name in names if repository else ():
        found = try_to_load_from_cache(repository, name, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(found, str):
            return Path(found)
    if url := source.get("url", ""):
        path = URL_CACHE.expanduser() / Path(url).name
        return path if path.is_file() else None
    return None


def cache_folder(source: Mapping[str, Any]) -> Path:
    """Where open_clip puts the file of a pretrained tag."""
    return Path(constants.HF_HUB_CACHE) if source.get("hf_hub") else URL_CACHE.expanduser()


def _is_torchscript(path: Path) -> bool:
    """Both TorchScript and ``torch.save`` write a zip file; only the former contains code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a one-line message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"weights file {path} cannot be read: {first_line(error)}")

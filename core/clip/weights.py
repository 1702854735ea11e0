"""Weight files of a backbone: the location of open_clip's downloads, and the file formats.

The format is recognized from the content of a file: safetensors; a torch file of tensors, alone or
under "state_dict"; OpenAI's TorchScript archive, and the state dict taken from one; a file of
``transformers.CLIPModel``. Nothing in a file is executed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor

from core.clip.torchscript import is_torchscript, read_torchscript
from core.finite import check_finite, check_real
from core.tensor_files import DOWNLOAD, check_size, is_safetensors, load_torch, read_safetensors

# OpenAI's archives store these numbers as tensors beside the weights; no other format does.
OPENAI_SIZES = frozenset({"input_resolution", "context_length", "vocab_size"})
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
FOLDER_FILES = (*HUB_FILES, "model.safetensors", "pytorch_model.bin")
URL_CACHE = Path("~/.cache/clip")
WHAT = "weights file"
# What training on several devices and compiling put in front of names.
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
COUNTERS = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")
NESTED = ("state_dict", "model_state_dict", "model")


def weights_path(weights: str) -> Path:
    """The file that a path names; for a folder as hubs lay it out, the file of weights in it.

    Raises ValueError for a path that does not exist, and for a folder without such a file.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        found = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
        if found is None:
            raise ValueError(
                f"weights folder {path} holds none of {', '.join(FOLDER_FILES)}; give the file of "
                "weights"
            )
        return found
    if not path.is_file():
        raise ValueError(f"{WHAT} {path} does not exist; give a file or a pretrained tag")
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a local file, on the CPU; nothing in it is executed.

    Raises ValueError, in one line, for a file that is missing, damaged, of another kind, or holds
    a number that is not finite in float32.
    """
    state = _read(weights_path(str(path)))
    # A single integer is a size or a counter; whether it is a weight shows with the model.
    whole = {name for name, value in state.items() if not value.dim() or COUNTERS.search(name)}
    check_real(state, f"{WHAT} {path}", whole=whole)
    single = {
        name: value.float() if value.is_floating_point() else value for name, value in state.items()
    }
    check_finite(single, f"{WHAT} {path}", f"the file is damaged or overflowed; {DOWNLOAD}")
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if is_safetensors(path):
        return read_safetensors(path, WHAT)
    if is_torchscript(path):
        check_size(path, WHAT)
        try:
            return read_torchscript(path)
        except ValueError as error:
            raise ValueError(
                f"{WHAT} {path} cannot be read: it is a TorchScript archive, but {error}"
            ) from error
    loaded = load_torch(path, WHAT)
    if not isinstance(loaded, dict):
        return {}
    nested = next((loaded[key] for key in NESTED if isinstance(loaded.get(key), dict)), loaded)
    return tensors_of(nested)


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, without the prefix added by training on several devices."""
    named = {PREFIXES.sub("", str(key)): value for key, value in state.items()}
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

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
            if parts := sorted(path.glob("*.index.json")):
                raise ValueError(
                    f"weights folder {path} holds a model in several files ({parts[0].name}); save "
                    "it as one: load it where it was made and save it with a larger max_shard_size"
                )
            raise ValueError(
                f"weights folder {path} holds none of {', '.join(FOLDER_FILES)}{_files(path)}; "
                "give the file of weights"
            )
        return found
    if not path.is_file():
        raise ValueError(f"{WHAT} {path} does not exist; give a file or a pretrained tag")
    return path


def _files(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt"))
    return f", but {', '.join(names[:3])}" if names else ""


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
        return tensors_of(read_safetensors(path, WHAT), f"{WHAT} {path}")
    if is_torchscript(path):
        check_size(path, WHAT)
        try:
            return read_torchscript(path)
        except ValueError as error:
            raise ValueError(
                f"{WHAT} {path} cannot be read: it is a TorchScript archive, but {error}"
            ) from error
    loaded = load_torch(path, WHAT)
    nested = [
        key for key in NESTED if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)
    ]
    state = tensors_of(loaded[nested[0]] if nested else loaded, f"{WHAT} {path}")
    if not any(value.dim() for value in state.values()):
        kind = type(loaded).__name__
        if isinstance(loaded, dict):
            kind = f"dict with the keys {', '.join(map(repr, list(loaded)[:5])) or 'none'}"
        raise ValueError(
            f"{WHAT} {path} holds no tensors by name, alone or under {' or '.join(NESTED)}: it is "
            f"a {kind}; save the state_dict of the model alone"
        )
    return state


def tensors_of(state: object, what: str) -> dict[str, Tensor]:
    """The tensors of a state dict, without the prefix added by training on several devices.

    Raises ValueError where two names become one and their tensors differ.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, Tensor | int):
            add_named(found, PREFIXES.sub("", str(key)), torch.as_tensor(value), what)
    return found


def add_named(found: dict[str, Tensor], name: str, tensor: Tensor, what: str) -> None:
    """Add a renamed tensor. Raises ValueError where another one has its name."""
    known = found.setdefault(name, tensor)
    if known is not tensor and not _equal(known, tensor):
        raise ValueError(
            f"{what} holds two different tensors of the name {name!r}, one behind a prefix; keep "
            "one of them in the file"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    plain = not (one.is_meta or other.is_meta) and one.layout == other.layout == torch.strided
    return plain and one.dtype == other.dtype and torch.equal(one, other)


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

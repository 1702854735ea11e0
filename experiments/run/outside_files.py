"""What the configuration of a study folder may name: files of that folder, and datasets.

A study folder may come from somebody else. Its configurations are data, and do not decide which
other files of this machine are read: the person who evaluates, inspects or repeats a run says so.
Configurations that were run here are remembered in the cache, by their hash: they name what the
person chose.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import Config, config_from_text, lookup
from core.data.dataset_names import require_below_root
from core.program import way_out
from core.store.manifest import has_manifest
from core.store.names import CONFIG_NAME
from core.store.search import is_search
from core.store.settings import read_config
from experiments.run.runtime import Runtime

ROOT = "experiment"
FILE_PARAMETERS = frozenset({"weights", "shots_file"})
WEIGHT_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".safetensors"})


def check_named_files(run_dir: Path, runtime: Runtime, *, allow_outside: bool) -> None:
    """Raise ValueError where the configuration of a run that was not made here names a file
    outside its study folder, or a dataset outside the data root, unless ``allow_outside``.
    """
    text = read_config(run_dir)
    if allow_outside or config_mark(text, runtime.cache_dir).exists():
        return
    allow = way_out("--allow-outside-files", "allow_outside_files=True")
    config = config_from_text(text, str(run_dir / CONFIG_NAME))
    values: dict[str, Any] = config.operative(ROOT)
    for name in (values[f"{ROOT}.dataset"], *values[f"{ROOT}.targets"]):
        try:
            require_below_root(name, runtime.data_root)
        except ValueError as error:
            raise ValueError(f"{error}, or {allow}") from None
    home = _home(run_dir).resolve()
    for key, path in named_files(config):
        if not path.expanduser().resolve().is_relative_to(home):
            raise ValueError(
                f"{run_dir / CONFIG_NAME}: {key} names {path}, a file outside {home}, and the "
                f"run was not made here; if you mean it, give {allow}"
            )


def config_mark(text: str, cache_dir: Path) -> Path:
    """The file that notes that a configuration was run here."""
    return cache_dir / "configs" / hashlib.sha256(text.encode()).hexdigest()


def named_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Every file that a configuration names, with the setting that names it."""
    values: dict[str, Any] = config.operative(ROOT)
    for key, value in values.items():
        parameter = key.rpartition(".")[2]
        if parameter not in FILE_PARAMETERS or not isinstance(value, str):
            continue
        if parameter != "weights" or _is_path(value):
            yield key, Path(value)
    for name in dict.fromkeys(key.partition(".")[0] for key in values):
        own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{name}.")}
        yield from ((name, path) for path in lookup(name).ask("input_files", own))


def _is_path(weights: str) -> bool:
    """Whether weights are a file rather than a pretrained tag."""
    separators = [sign for sign in (os.sep, os.altsep) if sign]
    return (
        any(sign in weights for sign in separators)
        or weights.startswith(("~", "."))
        or Path(weights).suffix.lower() in WEIGHT_SUFFIXES
        or Path(weights).exists()
    )


def _home(run_dir: Path) -> Path:
    """The folder that a run came in: that of its study or search, or its own."""
    parent = run_dir.absolute().parent
    return parent if has_manifest(parent) or is_search(parent) else run_dir

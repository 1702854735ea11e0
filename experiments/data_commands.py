"""The ``data`` commands: look into a data set, write one as image files."""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

from core.data.catalog import load_dataset
from core.data.dataset import ClassSubset, Item
from core.data.export import export_dataset
from core.data.fewshot import few_shot
from core.data.splits import class_subset
from experiments.screens import Bar


def check_dataset(
    name: str, root: Path | None, cache_dir: Path, *, shots: int, seed: int, classes: str
) -> dict[str, Any]:
    """Class names, counts and listing hashes of a data set, a few-shot draw or a half of it."""
    subset = next((s for s in get_args(ClassSubset) if s == classes), None)
    if subset is None:
        raise ValueError(f"classes must be all, base or new, got {classes!r}")
    full = load_dataset(name, root=root, cache_dir=cache_dir)
    part = class_subset(few_shot(full, shots=shots, seed=seed), subset)
    found: dict[str, Any] = {
        "name": part.name,
        "template": part.template,
        "classes": len(part.class_names),
        "class names": ", ".join(part.class_names),
        "fingerprint": full.fingerprint,
    }
    for split in ("train", "val", "test"):
        items = {"train": part.train, "val": part.val, "test": part.test}[split]
        found[split] = len(items)
        found[f"{split} sha256"] = _listing_hash(items)
    return found


def export(name: str, out: Path, root: Path | None, cache_dir: Path, bar: Bar) -> Path:
    """Write a data set below ``out``; the path of its split file."""
    dataset = load_dataset(name, root=root, cache_dir=cache_dir)
    return export_dataset(dataset, out, bar.show)


def _listing_hash(items: tuple[Item, ...]) -> str:
    text = json.dumps([[item.path, item.label] for item in items])
    return hashlib.sha256(text.encode()).hexdigest()

"""Writing a dataset to disk as images with a split file in the published format."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from core.data.dataset import Dataset
from core.data.dataset_names import FOLDER
from core.data.folder_settings import SETTINGS_NAME
from core.data.split_file import PREFIX, require_inside, split_text
from core.store.documents import parse_json

IMAGES_NAME = "images"

Progress = Callable[[int, int], None]


def export_dataset(dataset: Dataset, out: Path, progress: Progress | None = None) -> Path:
    """Write ``out/images/<item.path>`` as PNG, ``out/split_zhou_<Name>.json`` and
    ``out/refinelab.json``; return ``out``.

    ``read_folder(out)`` gives back the same items, class names, template and pixels. The folder
    appears complete or not at all: it is written beside ``out`` and renamed. ``progress(done,
    total)`` is called after each image. An existing identical export is verified and left
    unchanged.

    Raises ValueError if ``out`` holds anything else, if a path leaves the folder, or if a class has
    no image (a split file cannot name it).
    """
    paths = _checked_paths(dataset)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder to export to")
    if out.is_dir() and any(out.iterdir()):
        _require_identical(dataset, out, paths)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
    try:
        _write_all(dataset, partial, paths, progress)
        partial.chmod(0o755)  # mkdtemp makes folders private
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def split_file_name(dataset: Dataset) -> str:
    """``split_zhou_<Name>.json`` with the dataset's name in CamelCase: "mosaic/shapes" gives
    MosaicShapes. Of a folder outside the data root, its last name is enough.
    """
    outside = dataset.name.startswith(f"{FOLDER}//")
    name = f"{FOLDER}/{PurePosixPath(dataset.name).name}" if outside else dataset.name
    words = "".join(c if c.isalnum() else " " for c in name).split()
    return f"{PREFIX}{''.join(word[0].upper() + word[1:] for word in words)}.json"


def _checked_paths(dataset: Dataset) -> list[str]:
    items = [*dataset.train, *dataset.val, *dataset.test]
    present = {item.label for item in items}
    if bare := [name for n, name in enumerate(dataset.class_names) if n not in present]:
        raise ValueError(
            f"{dataset.name}: class {bare[0]!r} ({len(bare)} in all) has no image, so "
            "a split file cannot name it; remove the class"
        )
    paths = list(dict.fromkeys(item.path for item in items))
    for path in paths:
        require_inside(path, dataset.name)
    return paths


def _write_all(dataset: Dataset, folder: Path, paths: list[str], progress: Progress | None) -> None:
    for done, path in enumerate(paths, start=1):
        file = folder / IMAGES_NAME / path
        file.parent.mkdir(parents=True, exist_ok=True)
        dataset.reader.read(path).convert("RGB").save(file, format="PNG")
        if progress is not None:
            progress(done, len(paths))
    (folder / split_file_name(dataset)).write_text(split_text(dataset), encoding="utf-8")
    settings = {
        "template": dataset.template,
        "source": dataset.name,
        "source_fingerprint": dataset.fingerprint,
        "images_sha256": _images_digest(folder, paths),
    }
    (folder / SETTINGS_NAME).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _images_digest(folder: Path, paths: list[str]) -> str:
    """sha256 over all image files, in listing order, with their paths."""
    digest = hashlib.sha256()
    for path in paths:
        data = (folder / IMAGES_NAME / path).read_bytes()
        line = f"{path}\0{hashlib.sha256(data).hexdigest()}\0"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _require_identical(dataset: Dataset, out: Path, paths: list[str]) -> None:
    """Raises ValueError unless ``out`` is exactly a complete, unchanged export of this dataset."""
    difference = next(_differences(dataset, out, paths), None)
    if difference is not None:
        raise ValueError(
            f"{out} is not empty and is not an identical export of {dataset.name}: {difference}; "
            "choose an empty folder"
        )


def _differences(dataset: Dataset, out: Path, paths: list[str]) -> Iterator[str]:
    try:
        settings = parse_json((out / SETTINGS_NAME).read_text(encoding="utf-8"))
        listing = (out / split_file_name(dataset)).read_text(encoding="utf-8")
    except (OSError, ValueError):
        yield f"{SETTINGS_NAME} or {split_file_name(dataset)} is missing or broken"
        return
    if not isinstance(settings, dict) or settings.get("source_fingerprint") != dataset.fingerprint:
        yield "it was exported from different data"
        return
    if listing != split_text(dataset) or settings.get("template") != dataset.template:
        yield "its listing or template was changed"
    files = {f.relative_to(out).as_posix() for f in out.rglob("*") if not f.is_dir()}
    expected = {SETTINGS_NAME, split_file_name(dataset), *(f"{IMAGES_NAME}/{p}" for p in paths)}
    if files != expected:
        yield f"{min(files ^ expected)} is missing or does not belong to it"
        return
    if settings.get("images_sha256") != _images_digest(out, paths):
        yield "an image was changed"

"""The MATLAB annotation files of Stanford Cars and Oxford Flowers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def labels_of(path: Path) -> list[int]:
    """Variable ``labels`` of Oxford Flowers' ``imagelabels.mat``: one class number (from 1) per
    image. Raises ValueError.
    """
    labels = np.asarray(_variable(path, "labels")).ravel()
    if labels.size == 0 or not np.issubdtype(labels.dtype, np.number):
        raise ValueError(f"annotation file {path}: 'labels' must be a row of class numbers")
    return [int(label) for label in labels]


def class_names_of(path: Path) -> list[str]:
    """Variable ``class_names`` of Stanford Cars' ``cars_meta.mat``, in class order. Raises
    ValueError.
    """
    cells = np.asarray(_variable(path, "class_names"), dtype=object).ravel()
    names = [str(_scalar(cell)) for cell in cells]
    if not names:
        raise ValueError(f"annotation file {path}: 'class_names' is empty")
    return names


def annotations_of(path: Path) -> list[tuple[str, int]]:
    """Variable ``annotations`` of Stanford Cars: file name and class number (from 1) of each image.

    Raises ValueError, also for the test annotations that come without classes.
    """
    structs = np.asarray(_variable(path, "annotations")).ravel()
    fields: Sequence[str] = structs.dtype.names or ()
    if absent := [name for name in ("fname", "class") if name not in fields]:
        raise ValueError(
            f"annotation file {path}: 'annotations' has no field {absent[0]!r}; the test classes "
            "are in cars_test_annos_withlabels.mat"
        )
    try:
        return [(str(_scalar(s["fname"])), int(_scalar(s["class"]))) for s in structs]
    except (TypeError, ValueError) as error:
        raise ValueError(f"annotation file {path} has a malformed entry: {error}") from error


def _variable(path: Path, name: str) -> Any:
    from scipy.io import loadmat  # slow to import, and only two datasets need it

    if not path.is_file():
        raise ValueError(
            f"annotation file {path} does not exist; complete the download (a published split file "
            "takes its place where the set has one)"
        )
    try:
        content = loadmat(path)
    except Exception as error:  # a damaged file raises almost anything
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"annotation file {path} is not a readable MATLAB file: {what}") from error
    if name not in content:
        found = [key for key in content if not key.startswith("__")]
        raise ValueError(
            f"annotation file {path} has no variable {name!r}, only {found}; check that it is the "
            "intended file"
        )
    return content[name]


def _scalar(value: Any) -> Any:
    """The single element of nested arrays, MATLAB's representation of every value."""
    while isinstance(value, np.ndarray):
        if value.size != 1:
            raise ValueError(f"expected one value, got {value.size}")
        value = value.ravel()[0]
    return value

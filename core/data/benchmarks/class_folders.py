"""caltech101, food101, dtd, eurosat without their split file: 50/20/30 of each class folder.

Class folders are sorted by code point (upper case first); the label is the position. Every file in
a class folder that is not hidden counts, regardless of its suffix. Plain files beside the class
folders are ignored. The official partitions of Food-101 and DTD are not used, as published.
"""

import random
from pathlib import Path

from core.data.benchmarks.definitions import Benchmark
from core.data.benchmarks.image_tree import ImageTree
from core.data.benchmarks.split_creation import SplitRows, cut_in_three
from core.data.split_file import SplitRow


def create_from_folders(
    row: Benchmark, home: Path, tree: ImageTree, rng: random.Random
) -> SplitRows:
    """Train, val and test entries; advances ``rng``. Raises ValueError for a class with too few."""
    folders = [name for name in tree.folders() if name not in row.ignored]
    if not folders:
        raise ValueError(f"{tree.root} has no class folders; expected {tree.root}/<class>/<image>")
    classes = [
        [
            SplitRow(f"{folder}/{file}", label, row.renames.get(folder, folder))
            for file in class_files(tree, folder)
        ]
        for label, folder in enumerate(folders)
    ]
    return cut_in_three(classes, rng)


def class_files(tree: ImageTree, folder: str) -> list[str]:
    """The files of a class folder. Raises ValueError when it is empty or holds a folder."""
    files = tree.files(folder)
    if inner := tree.folders(folder):
        raise ValueError(
            f"class folder {tree.root / folder} holds the folder {inner[0]!r}, images belong "
            "directly into it; was an archive unpacked one level too deep?"
        )
    if not files:
        raise ValueError(
            f"class folder {tree.root / folder} has no images; complete the download or remove it"
        )
    return files

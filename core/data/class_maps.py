"""Class names of a plain tree that differ from its folders: ``classnames.txt`` (or ``.csv``).

One class per line: the folder, then the name. They are separated by a TAB, a comma or a blank; the
folder must be one that is there, so that names and folders may hold blanks and commas. Blank lines
are ignored, and so is a first line of headings (``folder,name``). Fields may be quoted as in CSV.
"""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from core.suggestions import did_you_mean

_FOLDER_HEADINGS = (
    "class class_folder class_id dir directory folder foldername id label synset wnid"
)
_NAME_HEADINGS = "class class_name classname class_names description label label_name name words"
CLASSNAMES_NAME = "classnames.txt"
_LIKE_A_MAP = ("classes", "classname", "class", "labels", "labelnames", "names", "words", "wnids")
_SUFFIXES = (".txt", ".csv", ".tsv")


def is_class_map(name: str) -> bool:
    """Whether a file of this name gives class names: ``classnames.txt``, ``Class_Names.csv``."""
    stem, suffix = os.path.splitext(name.casefold())
    return suffix in _SUFFIXES and re.sub(r"[ _-]", "", stem) == "classnames"


def may_name_classes(name: str) -> bool:
    """Whether a file that is not read may have been meant to name the classes: ``classes.txt``."""
    stem, suffix = os.path.splitext(name.casefold())
    return suffix in _SUFFIXES and re.sub(r"[ _-]", "", stem) in _LIKE_A_MAP


def read_classnames(file: Path, folders: Sequence[str]) -> dict[str, str]:
    """The class name of every folder.

    Raises ValueError, one line, for a file that is not UTF-8 text, a line that fits no folder or
    several, a folder that is named twice, and one that is missing.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as UTF-8 text: {error}") from error
    lines = [(f"{file}:{n}", line.strip()) for n, line in enumerate(text.splitlines(), start=1)]
    lines = [(where, line) for where, line in lines if line]
    if sorted(line for _, line in lines) == sorted(folders):
        return {folder: folder for folder in folders}
    if lines and _is_heading(lines[0][1], folders):
        lines = lines[1:]
    names: dict[str, str] = {}
    for where, line in lines:
        folder, name = _folder_and_name(line, folders, where)
        if folder in names:
            raise ValueError(f"{where}: class folder {folder!r} is there twice; keep one line")
        names[folder] = name
    require_all_named(names, folders, str(file))
    return names


def require_all_named(names: dict[str, str], folders: Sequence[str], where: str) -> None:
    """Raises ValueError unless ``names`` has exactly the class folders ``folders``."""
    known = set(folders)
    if strange := [folder for folder in names if folder not in known]:
        raise ValueError(
            f"{where}: there is no class folder {strange[0]!r} ({len(strange)} unknown in all)"
            f"{did_you_mean(strange[0], folders)}"
        )
    if missing := [folder for folder in folders if folder not in names]:
        raise ValueError(
            f"{where} has no name for the class folder {missing[0]!r} ({len(missing)} of "
            f"{len(folders)} in all); name every class folder"
        )


def _is_heading(line: str, folders: Sequence[str]) -> bool:
    """Whether a line gives the columns names; a folder of such a name makes it a line of data."""
    fields = [f.strip().strip('"').strip().casefold() for f in re.split(r"[\t,]", line)]
    if len(fields) != 2 or fields[0] in map(str.casefold, folders):
        return False
    spelled = [re.sub(r"[ -]", "_", field) for field in fields]
    return spelled[0] in _FOLDER_HEADINGS.split() and spelled[1] in _NAME_HEADINGS.split()


def _quoted_pair(line: str, known: set[str]) -> tuple[str, str] | None:
    """Folder and name of a line whose first field is quoted, as spreadsheets write it."""
    if not line.startswith('"'):
        return None
    fields = next(csv.reader([line], delimiter="\t" if "\t" in line else ","))
    folder, *rest = (field.strip() for field in fields)
    return (folder, rest[0]) if folder in known and len(rest) == 1 and rest[0] else None


def _folder_and_name(line: str, folders: Sequence[str], where: str) -> tuple[str, str]:
    known = set(folders)
    if (quoted := _quoted_pair(line, known)) is not None:
        return quoted
    separators = "\t" if "\t" in line else ", "
    pairs = [
        (line[:n].strip(), line[n + 1 :].strip()) for n, c in enumerate(line) if c in separators
    ]
    fitting = {folder: _unquoted(name) for folder, name in pairs if folder in known and name}
    if len(fitting) == 1:
        folder, name = fitting.popitem()
        if "\t" in name:
            raise ValueError(
                f"{where}: {line!r} has {line.count(chr(9)) + 1} columns; keep two, the class "
                "folder and its class name"
            )
        return folder, name
    if fitting:
        raise ValueError(
            f"{where}: {line!r} fits the class folders {' and '.join(map(repr, fitting))}; "
            "separate folder and name by a TAB"
        )
    first = line.partition("\t" if "\t" in line else "," if "," in line else " ")[0].strip()
    raise ValueError(
        f"{where}: {line!r} must be a class folder, a TAB, comma or blank, and its class name; "
        f"there is no class folder {first!r} with a name"
        f"{'' if first in known else did_you_mean(first, folders)}"
    )


def _unquoted(name: str) -> str:
    return name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] == '"' else name

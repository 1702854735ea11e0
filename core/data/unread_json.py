"""JSON files beside the images that would not be read: refused, with the line to write."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from core.data.folder_settings import SETTINGS_NAME, FolderSettings, settings_line
from core.data.image_files import files_in, is_system
from core.data.part_names import PARTS
from core.data.split_file import PREFIX


def require_read_json(
    folders: Sequence[Path], settings: FolderSettings, home: Path | None = None
) -> None:
    """Refuse a JSON file beside the images that would not be read. ``home``: where it would be
    read, if not in its own folder.
    """
    for folder in folders:
        for name in files_in(folder):
            if (
                name.lower().endswith(".json")
                and name not in settings.ignore
                and (home is not None or name != SETTINGS_NAME)
                and not is_system(name)
            ):
                advice = json_advice(folder / name, home)
                raise ValueError(f"{folder / name} is not read: {advice}")


def json_advice(file: Path, home: Path | None = None) -> str:
    """What to do with a JSON file that is not read, from what is in it."""
    place = "beside it" if home is None else f"in {home}"
    leave_out = f"write {SETTINGS_NAME} {place} with {settings_line('ignore', [file.name])}"

    def move(name: str) -> str:
        return move_command(file.name, name) if home is None else move_command(file, home / name)

    found = json_of(file)
    if is_split(found):
        return f"a split file is named {PREFIX}<Name>.json; {move(split_name_for(file))}"
    if file.name.casefold().startswith("refinelab"):
        return f"the settings of a folder are in {SETTINGS_NAME}; {move(SETTINGS_NAME)}"
    if isinstance(found, dict) and found and all(isinstance(v, str) for v in found.values()):
        return (
            f"class names are the key class_names of {SETTINGS_NAME}, "
            f'{{"class_names": {{"<folder>": "<name>", ...}}}}; otherwise {leave_out}'
        )
    return (
        f"a split file is named {PREFIX}<Name>.json and holds "
        '{"train": [["<path>", <label>, "<class name>"], ...], "val": [...], "test": [...]}; '
        f"if it does not belong to the data, {leave_out}"
    )


def move_command(source: object, target: object) -> str:
    return shlex.join(["mv", str(source), str(target)])


def split_name_for(file: Path) -> str:
    """The name that a split file should have: ``split_zhou_Pets.json`` for ``split_Pets.json``."""
    stem = "".join(c for c in file.stem if c.isalnum() or c == "_")
    prefixes = (p for p in (PREFIX, "split_", "split") if stem.lower().startswith(p))
    return f"{PREFIX}{stem[len(next(prefixes, '')) :] or 'X'}.json"


def json_of(file: Path) -> object:
    try:
        found: object = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return found


def is_split(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(part), list) for part in PARTS)

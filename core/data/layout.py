"""Recognizing how a folder of images is laid out, or refusing it.

* ``split``: exactly one ``split_zhou_*.json`` in the folder, or in its parent when the given folder
  is the image folder that the file lists. The image folder is the given folder or the one direct
  sub-folder that holds the listed files.
* ``parts``: sub-folders that mean train, val and test in any usual spelling (``part_names.py``),
  with class folders in them.
* ``classes``: class folders.

A folder with nothing but one sub-folder is a wrapper: the sub-folder is read, and this is said.
Refused, with the way out: a tree with a training or a test part only, two folders for one part,
parts inside the class folders, sub-folders that hold the same class folders under names that mean
nothing here, and a JSON file beside the images that would not be read. ``refinelab.json``
(``folder_settings.py``) declares what cannot be recognized.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from core.data.class_maps import CLASSNAMES_NAME, is_class_map, may_name_classes
from core.data.dataset import SplitName
from core.data.folder_settings import (
    SETTINGS_NAME,
    FolderSettings,
    read_folder_settings,
    settings_line,
)
from core.data.image_files import (
    CONTAINERS,
    files_in,
    has_direct_images,
    has_images,
    is_image,
    is_system,
    subfolders,
)
from core.data.part_names import (
    PARTS,
    is_unlabeled,
    part_folders,
    part_name,
    spelled_alike,
)
from core.data.part_wrappers import class_places
from core.data.reading import counted
from core.data.split_file import PREFIX, read_split
from core.data.unread_json import (
    is_split,
    json_advice,
    json_of,
    move_command,
    require_read_json,
    split_name_for,
)
from core.streams import printable
from core.suggestions import did_you_mean

_PROBES = 32  # listed files looked up to find out which sub-folder is the image folder
_MAX_WRAPPERS = 8
_MAX_JSON = 20  # JSON files looked into in a folder that is left out
_ANNOTATION = (
    "annotation annotations bboxes code devkit doc docs imagesets label labels lists meta metadata "
    "script scripts split splits split_fewshot"
)
_METADATA = frozenset(_ANNOTATION.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderLayout:
    """How a folder will be read. Item paths are relative to ``images``; ``home`` is the folder that
    was given, or the one of the split file above it. ``parts`` maps each part to its folder below
    ``images``, ``class_folders`` are those of the ``classes`` layout.
    """

    kind: Literal["split", "parts", "classes"]
    home: Path
    images: Path
    settings: FolderSettings
    split_file: Path | None = None
    parts: Mapping[SplitName, str] | None = None
    class_folders: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """A readable line: the kind and the paths by which it was recognized."""
        images = printable(str(self.images))
        if self.split_file is not None:
            return f"split file {printable(str(self.split_file))}, images below {images}"
        if self.parts is not None:
            names = "/".join(part for part in PARTS if part in self.parts)
            spelled = ", ".join(printable(folder) for folder in self.parts.values())
            return f"{names} folders ({spelled}) of class folders below {images}"
        return f"class folders below {images}, split by RefineLab (no split file)"


def find_layout(path: Path) -> FolderLayout:
    """Recognize a folder's layout.

    Raises ValueError when it is not a folder, and for a layout that is refused.
    """
    if not path.is_dir():
        raise ValueError(
            f"data folder {path} does not exist or is not a folder; check the name and the root"
            f"{_similar_folder(path)}"
        )
    if (own := _split_file_in(path)) is not None:
        return _with_split(path, own, _image_folder(path, own))
    parent = path.resolve().parent
    above = _split_file_in(parent, several_is_none=True)
    if above is not None and _num_present(path, read_split(above).paths()):
        return _with_split(parent, above, path)
    settings = read_folder_settings([path])
    if len(chain := _wrappers(path, settings)) > 1:
        settings = read_folder_settings(chain)
    images = chain[-1]
    if len(chain) > 1 and (inner := _split_file_in(images)) is not None:
        found = _with_split(images, inner, _image_folder(images, inner))
        return replace(found, home=path, notes=(*_wrapper_notes(chain), *found.notes))
    require_read_json(chain, settings)
    _require_no_split_above(path, parent)
    found = _by_names(images, settings)
    return replace(
        found,
        home=path,
        ignored=(
            *_beside(chain, settings, inside=(found.parts or {}).values()),
            *_loose(chain),
            *found.ignored,
        ),
        notes=(*_wrapper_notes(chain), *_sibling_notes(path), *found.notes),
    )


def _similar_folder(path: Path) -> str:
    """A suggestion for a path that is no folder: one that is there, spelled in another way."""
    there = next((p for p in (path, *path.parents) if p.is_dir()), None)
    if there is None or there == path:
        return ""
    name = path.relative_to(there).parts[0]
    try:
        names = subfolders(there)
    except OSError:
        return ""
    same = next((n for n in names if spelled_alike(n) == spelled_alike(name)), None)
    if same is not None and same.casefold() == name.casefold():
        return f"; did you mean {same!r}?"
    if same is not None:
        return f"; {same!r} ({same!a}) there has its accents in another Unicode form"
    return did_you_mean(name, names)


def _with_split(home: Path, split_file: Path, images: Path) -> FolderLayout:
    settings = read_folder_settings([home])
    for key in ("class_names", "parts", "layout"):
        if getattr(settings, key):
            raise ValueError(
                f"{settings.file}: {key} has no effect beside the split file {split_file.name}, "
                "which is the only source of names and parts; remove it"
            )
    return FolderLayout(
        kind="split",
        home=home,
        images=images,
        settings=settings,
        split_file=split_file,
        ignored=tuple(_beside([home], settings, split_file.name)),
    )


def _by_names(images: Path, settings: FolderSettings) -> FolderLayout:
    """The layout of a tree without a split file, from the names of its folders."""
    folders = [name for name in subfolders(images) if name not in settings.ignore]
    if settings.parts:
        parts: dict[SplitName, str] = {p: settings.parts[p] for p in PARTS if p in settings.parts}
        if absent := [name for name in parts.values() if name not in folders]:
            raise ValueError(
                f"{settings.file}: parts names the folder {absent[0]!r}, which is not in {images}"
            )
        return _with_parts(images, folders, parts, settings)
    if settings.layout is None and (named := part_folders(folders)):
        return _with_parts(images, folders, _one_each(images, named), settings)
    kept = _without_metadata(images, folders, as_classes=settings.layout is not None)
    if settings.layout is None:
        _require_clear_metadata(images, folders, kept)
        _require_no_lone_part(images, kept)
        _require_classes(images, kept)
    set_aside = [name for name in folders if name not in kept]
    return FolderLayout(
        kind="classes",
        home=images,
        images=images,
        settings=settings,
        class_folders=tuple(kept),
        ignored=tuple(_set_aside(images, set_aside)),
        notes=tuple(_nested_notes(images, kept)),
    )


def _with_parts(
    images: Path, folders: Sequence[str], parts: Mapping[SplitName, str], settings: FolderSettings
) -> FolderLayout:
    others = [name for name in folders if name not in parts.values()]
    with_images = [
        name
        for name in others
        if has_images(images / name)
        and not (is_unlabeled(name) and len(_image_folders(images / name)) < 2)
    ]
    if with_images:
        raise ValueError(
            f"{images}: {', '.join(parts.values())} look like the parts of a dataset, but "
            f"{with_images[0]!r} ({len(with_images)} such folders) holds images too; move it away, "
            f"or write {SETTINGS_NAME} there with {settings_line('ignore', with_images)} to "
            f"leave it out, or {settings_line('layout', 'classes')} if all of them are classes"
        )
    if not {"train", "test"} <= set(parts):
        absent: SplitName = "train" if "train" not in parts else "test"
        there = " and ".join(f"{folder}/" for folder in parts.values())
        raise ValueError(
            f"{images} has {there} but no {absent}/; rename the part to {absent} on to {absent}/, "
            f"or write {SETTINGS_NAME} there with {settings_line('parts', _renamed(parts, absent))}"
        )
    places, notes = class_places(images, parts)
    require_read_json([images / place for place in places.values()], settings, images)
    return FolderLayout(
        kind="parts",
        home=images,
        images=images,
        settings=settings,
        parts={part: places[part] for part in PARTS if part in places},
        ignored=(
            *_set_aside(images, others),
            *_loose((images / p for p in places.values()), files=True, but=settings.ignore),
        ),
        notes=tuple(notes),
    )


def _renamed(parts: Mapping[SplitName, str], absent: SplitName) -> dict[str, str]:
    """The parts with the validation folder in the place of the absent part."""
    return {absent if part == "val" else part: folder for part, folder in parts.items()}


def _one_each(images: Path, named: Mapping[str, SplitName]) -> dict[SplitName, str]:
    """The folder of each part. Raises ValueError where two mean the same."""
    parts: dict[SplitName, str] = {}
    for folder, part in named.items():
        if part in parts:
            raise ValueError(
                f"{images}: {parts[part]!r} and {folder!r} both mean the {part} part; rename one, "
                f"or write {SETTINGS_NAME} there with "
                f"{settings_line('parts', {'train': '...', 'val': '...', 'test': '...'})}"
            )
        parts[part] = folder
    return parts


def _require_no_lone_part(images: Path, folders: Sequence[str]) -> None:
    """Refuse a tree whose only folder is a part, and a part among other folders."""
    if len(folders) == 1 and (found := part_name(folders[0])) is not None:
        absent = "test" if found.part == "train" else "train"
        raise ValueError(
            f"{images} has {folders[0]}/ but no {absent}/; add it beside {folders[0]}/, or give "
            f"folder/{images / folders[0]} to have that part split by RefineLab"
        )
    for folder in folders:
        found = part_name(folder)
        if found is None or found.rest or has_direct_images(images / folder):
            continue
        if sum(has_images(images / folder / inner) for inner in subfolders(images / folder)) > 1:
            raise ValueError(
                f"{images}: {folder!r} looks like a part of a dataset, because it holds folders of "
                "images; name the parts train/, val/ and test/, or "
                f"write {SETTINGS_NAME} there with {settings_line('layout', 'classes')} if it is a "
                "class"
            )


def _require_classes(images: Path, folders: Sequence[str]) -> None:
    """Refuse folders that look like parts or domains of one dataset, not like its classes."""
    inside = {name: _image_folders(images / name) for name in folders}
    _require_no_parts_inside(images, inside)
    sets = {
        name: {spelled_alike(folder): folder for folder in sorted(found)}
        for name, found in inside.items()
        if found and len(found) >= _count_direct_images(images / name)
    }
    like_parts, shared = _overlapping({n: frozenset(f) - CONTAINERS for n, f in sets.items()})
    if 2 * len(like_parts) >= len(folders) and like_parts:
        some = ", ".join(sorted(sets[like_parts[0]][key] for key in shared)[:3])
        raise ValueError(
            f"{images}: its {len(like_parts)} folders ({_some(like_parts)}) hold the same "
            f"folders ({some}, ...), so they look like parts or domains, not classes; name parts "
            f"train/, val/ and test/, give one of them as folder/{images / like_parts[0]}, or "
            f"write {SETTINGS_NAME} there with "
            f"{settings_line('parts', _guessed_parts(like_parts))} or "
            f"{settings_line('layout', 'classes')}"
        )


def _guessed_parts(folders: Sequence[str]) -> dict[str, str]:
    """The parts that names say (``train_a``, ``test_b``), with dots for what they do not say."""
    said = {name: found.part for name in folders if (found := part_name(name)) is not None}
    guessed: dict[str, str] = {"train": "...", "test": "..."}
    return guessed | {part: name for name, part in said.items()}


def _require_no_parts_inside(images: Path, inside: Mapping[str, set[str]]) -> None:
    """Refuse a class folder that holds parts, and class folders that hold one part each."""
    holder = next((name for name, found in inside.items() if part_folders(sorted(found))), None)
    if holder is None:
        only = {n: f for n, f in inside.items() if f and all(map(part_name, f))}
        if not part_folders(sorted(set().union(*only.values()))):
            return
        holder = next(iter(only))
    raise ValueError(
        f"{images}: the class folders hold parts ({holder}/{min(inside[holder])}, "
        "...); turn the tree round to <part>/<class>/<image>, or write "
        f"{SETTINGS_NAME} there with {settings_line('layout', 'classes')} to ignore the parts"
    )


def _overlapping(
    inside: Mapping[str, frozenset[str]],
) -> tuple[list[str], frozenset[str]]:
    """The folders that share at least half of what is in the smaller of two with another one, and
    what the first of them shares. One folder of the same name in each is no sign of parts.
    """
    holders: dict[frozenset[str], list[str]] = {}
    for name, found in inside.items():
        holders.setdefault(found, []).append(name)
    sharing: dict[str, list[frozenset[str]]] = {}
    for found in holders:
        for key in found:
            sharing.setdefault(key, []).append(found)
    shared: dict[str, frozenset[str]] = {}
    for found, names in holders.items():
        near = dict.fromkeys(other for key in found for other in sharing[key] if other != found)
        same = [found] if len(names) > 1 and len(found) > 1 else []
        for other in (*same, *near):
            if 2 * len(found & other) >= min(len(found), len(other)):
                shared.update(dict.fromkeys(names, found & other))
                break
    ordered = [name for name in inside if name in shared]
    return ordered, shared[ordered[0]] if ordered else frozenset()


def _image_folders(folder: Path) -> set[str]:
    return {name for name in subfolders(folder) if has_images(folder / name)}


def _count_direct_images(folder: Path) -> int:
    return sum(map(is_image, files_in(folder)))


def _without_metadata(
    images: Path, folders: Sequence[str], *, as_classes: bool = False
) -> list[str]:
    """The folders without those for annotations: of such a name, and without images (or with
    images, beside a folder that is named for holding the images, unless all are classes).
    """
    named = [name for name in folders if name.casefold() in _METADATA]
    rest = [name for name in folders if name not in named]
    if rest and not as_classes and all(name.casefold() in CONTAINERS for name in rest):
        return rest
    return [name for name in folders if name not in named or has_images(images / name)]


def _require_clear_metadata(images: Path, folders: Sequence[str], kept: Sequence[str]) -> None:
    """Refuse a folder that may be a class or annotations: named for these, with images directly in
    it, beside several folders that hold images directly too.
    """
    unclear = [n for n in folders if n not in kept and has_direct_images(images / n)]
    if unclear and len(kept) > 1 and any(has_direct_images(images / name) for name in kept):
        raise ValueError(
            f"{images}: {unclear[0]!r} holds images, like {_some(kept)}, but its name is one of a "
            f"folder for annotations; write {SETTINGS_NAME} there with "
            f"{settings_line('layout', 'classes')} if it is a class, or "
            f"{settings_line('ignore', unclear)} to leave it out"
        )


def _wrappers(path: Path, settings: FolderSettings) -> list[Path]:
    """The folder and, while it holds nothing but one folder with folders in it, that one."""
    chain = [path]
    while len(chain) <= _MAX_WRAPPERS:
        here = chain[-1]
        folders = [name for name in subfolders(here) if name not in settings.ignore]
        folders = _without_metadata(here, folders)
        if settings.parts or settings.layout or len(folders) != 1 or has_direct_images(here):
            break
        inner = here / folders[0]
        holds_more = bool(subfolders(inner)) or _split_file_in(inner, several_is_none=True)
        if part_name(folders[0]) is not None or not holds_more:
            break
        chain.append(inner)
        if _split_file_in(inner, several_is_none=True) is not None:
            break
    return chain


def _wrapper_notes(chain: Sequence[Path]) -> list[str]:
    if len(chain) == 1:
        return []
    inner, outer = (printable(str(p)) for p in (chain[-1].relative_to(chain[0]), chain[0]))
    return [f"{inner}/ is the only folder of images in {outer}, and is read in its place"]


def _sibling_notes(path: Path) -> list[str]:
    """A note when the given folder is itself a part with others beside it."""
    place = path.resolve()
    try:
        named = part_folders(subfolders(place.parent))
    except OSError:  # a parent that may not be listed
        return []
    others = [name for name in named if name != place.name]
    if place.name not in named or not others:
        return []
    beside = ", ".join(f"{name}/" for name in others)
    return [
        f"{place.name}/ is one part of {printable(str(place.parent))}; {beside} beside it is not "
        "read"
    ]


def _nested_notes(images: Path, folders: Sequence[str]) -> list[str]:
    nested = [name for name in folders if subfolders(images / name)]
    if not nested:
        return []
    return [
        f"{counted(len(nested), 'class folder')} of {len(folders)} "
        f"{'holds' if len(nested) == 1 else 'hold'} folders, first {printable(nested[0])}/: the "
        "images in them count for the class"
    ]


def _set_aside(place: Path, folders: Sequence[str]) -> list[str]:
    """A line for folders that are left out. Raises ValueError where one holds a split file."""
    for folder in folders:
        for file in islice((place / folder).rglob("*.json"), _MAX_JSON):
            if file.name.startswith(PREFIX) or is_split(json_of(file)):
                name = file.name if file.name.startswith(PREFIX) else split_name_for(file)
                raise ValueError(
                    f"{file} is not read: a split file is named {PREFIX}<Name>.json and is beside "
                    f"the images; {move_command(file, place / name)}, or write {SETTINGS_NAME} "
                    f"there with {settings_line('ignore', [folder])}"
                )
    return [f"{_some([f'{name}/' for name in folders])}: not class folders"] if folders else []


def _beside(
    chain: Sequence[Path],
    settings: FolderSettings,
    split_name: str = "",
    inside: Iterable[str] = (),
) -> list[str]:
    """What lies beside the images and is not read, and ``ignore`` as far as it has an effect: there
    and on the files in the folders ``inside``.
    """
    here = {name for folder in chain for name in os.listdir(folder)}
    known = here.union(*(files_in(chain[-1] / folder) for folder in inside))
    if absent := [name for name in settings.ignore if name not in known]:
        raise ValueError(
            f"{settings.file}: ignore names {absent[0]!r}, which is not in {chain[0]}; remove it"
        )
    found = []
    left = [name for name in sorted(here) if is_system(name) and not name.startswith(".")]
    if left:
        found.append(f"{', '.join(map(printable, left))}: left by an operating system")
    if settings.ignore:
        found.append(f"{', '.join(map(printable, settings.ignore))}: by {SETTINGS_NAME}")
    names = (name for folder in chain for name in files_in(folder))
    files = [
        name
        for name in names
        if not (is_system(name) or is_image(name) or name in (SETTINGS_NAME, *settings.ignore))
        and not (name == split_name if split_name else is_class_map(name))
    ]
    if files:
        found.append(f"{_some(files)}: files beside the images that are not read")
        found += [
            f"{printable(name)} is not read: names of the classes are read from {CLASSNAMES_NAME}, "
            "one line a class, the folder and its name"
            for name in files
            if not split_name and may_name_classes(name)
        ]
    for outer, inner in pairwise(chain):
        others = [name for name in subfolders(outer) if name not in (inner.name, *settings.ignore)]
        found += _set_aside(outer, others)
    return found


def _loose(folders: Iterable[Path], *, files: bool = False, but: Sequence[str] = ()) -> list[str]:
    """Images, and with ``files`` other files, that are in no class folder, without ``but``."""
    found = []
    for folder in folders:
        place = printable(str(folder))
        names = [n for n in files_in(folder) if not is_system(n) and n not in but]
        if images := [name for name in names if is_image(name)]:
            found.append(
                f"{counted(len(images), 'image')} directly in {place}, which belong to no class, "
                f"first {printable(images[0])}"
            )
        if others := [name for name in names if files and not is_image(name)]:
            found.append(f"{_some(others)}: files in {place} that are not read")
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(printable, names[:5])) + more


def _require_no_split_above(path: Path, parent: Path) -> None:
    """Refuse an image folder whose split file, under a name that is not read, is in its parent."""
    try:
        names = [n for n in files_in(parent) if "split" in n.lower() and n.endswith(".json")]
    except OSError:
        return
    for name in names:
        if name.startswith(PREFIX) or not is_split(found := json_of(parent / name)):
            continue
        assert isinstance(found, dict)
        rows = [row for part in PARTS for row in found[part] if isinstance(row, list) and row]
        if rows and _num_present(path, [str(row[0]) for row in rows]):
            raise ValueError(f"{parent / name} is not read: {json_advice(parent / name)}")


def _split_file_in(folder: Path, *, several_is_none: bool = False) -> Path | None:
    found = sorted(folder.glob(f"{PREFIX}*.json"))
    if len(found) > 1 and not several_is_none:
        names = ", ".join(file.name for file in found)
        raise ValueError(
            f"{folder} holds {len(found)} split files ({names}); keep exactly one there"
        )
    return found[0] if len(found) == 1 else None


def _image_folder(home: Path, split_file: Path) -> Path:
    """The folder to which the listed paths are relative: the one below which most of a sample of
    them exist.
    """
    paths = read_split(split_file).paths()
    candidates = [home, *(home / folder for folder in subfolders(home))]
    counts = [_num_present(candidate, paths) for candidate in candidates]
    if not any(counts):
        raise ValueError(
            f"none of the {len(paths)} files listed in {split_file} was found below {home} or its "
            f"sub-folders, first {paths[0]}; put the image folder beside the split file"
        )
    return candidates[counts.index(max(counts))]


def _num_present(folder: Path, paths: Sequence[str]) -> int:
    step = max(1, len(paths) // _PROBES)
    return sum((folder / path).is_file() for path in paths[::step])

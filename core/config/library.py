"""A folder of ready-made configurations with short names, in which includes are looked up."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath

from core.suggestions import closest

PLUGIN_PRESETS = "configs"


class PresetPath(PosixPath):
    """The file of a preset that was found by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigLibrary:
    """The ``.gin`` files below ``folder``.

    The name of a file is its path without ``.gin``; the subfolders in ``sorted_by`` only group
    files and are omitted from the name. ``packages`` are those whose modules a file may name in an
    ``import``. ``beside`` are folders of plug-ins, in which names are looked up last, in them and
    in their subfolder ``configs``.
    """

    folder: Path
    sorted_by: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()

    def with_folders(self, folders: Iterable[Path]) -> "ConfigLibrary":
        """The same library, in which names are also looked up in these folders of plug-ins."""
        return replace(self, beside=tuple(dict.fromkeys((*self.beside, *folders))))

    def files(self) -> dict[str, Path]:
        """Every file by its name, in order."""
        found = {}
        for path in self.folder.rglob("*.gin"):
            inside = path.relative_to(self.folder).with_suffix("")
            short = Path(*inside.parts[1:]) if inside.parts[0] in self.sorted_by else inside
            found[short.as_posix()] = path
        return dict(sorted(found.items()))

    def plugin_files(self) -> dict[str, Path]:
        """The files beside plug-ins by their names, in order; a shipped name is not among them."""
        shipped = self.files()
        found = {
            path.stem: path for folder in self._plugin_folders() for path in folder.glob("*.gin")
        }
        return {name: found[name] for name in sorted(found.keys() - shipped.keys())}

    def find(self, name: str) -> PresetPath | None:
        """The file of a name, with or without ``.gin``, or None."""
        shipped = (self.folder, *(self.folder / kind for kind in self.sorted_by))
        for folder in (*shipped, *self._plugin_folders()):
            for path in (folder / name, folder / f"{name}.gin"):
                if path.is_file():
                    return PresetPath(path)
        return None

    def _plugin_folders(self) -> Iterator[Path]:
        for folder in self.beside:
            yield from (folder, folder / PLUGIN_PRESETS)

    def nearest(self, name: str) -> str | None:
        """The existing name that is most similar to an unknown one."""
        return closest(name.removesuffix(".gin"), [*self.files(), *self.plugin_files()])

"""A folder of ready-made configurations with short names, in which includes are looked up."""

from dataclasses import dataclass
from pathlib import Path

from core.suggestions import closest


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigLibrary:
    """The ``.gin`` files below ``folder``.

    The name of a file is its path without ``.gin``; the subfolders in ``sorted_by`` only group
    files and are omitted from the name. ``packages`` are those whose modules a file may name in an
    ``import``.
    """

    folder: Path
    sorted_by: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def files(self) -> dict[str, Path]:
        """Every file by its name, in order."""
        found = {}
        for path in self.folder.rglob("*.gin"):
            inside = path.relative_to(self.folder).with_suffix("")
            short = Path(*inside.parts[1:]) if inside.parts[0] in self.sorted_by else inside
            found[short.as_posix()] = path
        return dict(sorted(found.items()))

    def find(self, name: str) -> Path | None:
        """The file of a name, with or without ``.gin``, or None."""
        for folder in (self.folder, *(self.folder / kind for kind in self.sorted_by)):
            for path in (folder / name, folder / f"{name}.gin"):
                if path.is_file():
                    return path
        return None

    def nearest(self, name: str) -> str | None:
        """The existing name that is most similar to an unknown one."""
        return closest(name.removesuffix(".gin"), self.files())

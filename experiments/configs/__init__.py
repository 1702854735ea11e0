"""The configurations shipped with the suite, and how they are named on the command line."""

from collections.abc import Sequence
from pathlib import Path

from core.config import Config, ConfigLibrary, Plugins, PresetPath, load_config
from core.plugins import load_plugins, loaded_plugins
from core.program import command_line
from core.store.manifest import has_manifest
from core.store.names import RECORD_NAME
from core.store.search import is_search

SHIPPED = ConfigLibrary(
    folder=Path(__file__).resolve().parent,
    sorted_by=("methods", "refiners", "grids", "searches"),
    packages=("core", "methods", "refiners", "experiments"),
)


def library() -> ConfigLibrary:
    """The shipped configurations, and those beside the plug-ins that are loaded."""
    return SHIPPED.with_folders(plugin.folder for plugin in loaded_plugins())


def read_config_file(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration of a file, which may include shipped ones, with overrides on top.

    The plug-ins that the file names are loaded: a person names the file. Raises ValueError, with
    file and line, for any error, and for plug-ins that the file of a stored study names.
    """
    return load_config(path, overrides, library(), _load_named)


def _load_named(plugins: Plugins, folder: Path) -> list[Path]:
    """The folders of the plug-ins that a file in this folder names, once they are loaded."""
    for place in (folder, folder.absolute().parent):
        if (place / RECORD_NAME).exists() or has_manifest(place) or is_search(place):
            raise ValueError(
                f"{plugins.source}: plug-ins are code, and a file of the stored study {place} does "
                f"not load them; if you trust them, give --plugin {plugins.names[0]}"
            )
    try:
        return [plugin.folder for plugin in load_plugins(plugins.names, folder.absolute())]
    except ValueError as error:
        raise ValueError(f"{plugins.source}: {error}") from error


def config_path(name: str) -> Path:
    """The path of a configuration, given by path or by the name of a shipped one or of one beside
    a plug-in (``.gin`` optional).
    """
    configs = library()
    path: Path | PresetPath | None = Path(name) if Path(name).is_file() else configs.find(name)
    if path is None:
        near = configs.nearest(name)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(
            f"configuration {name!r} is neither a file nor a shipped configuration "
            f"(see '{command_line('list', 'configs')}'){hint}"
        )
    return path


def config_rows() -> list[dict[str, str]]:
    """Every configuration that has a name, with its first line if that is a comment."""
    configs = library()
    return [
        {"name": name, "summary": _first_comment(path)}
        for name, path in {**configs.files(), **configs.plugin_files()}.items()
    ]


def _first_comment(path: Path) -> str:
    first = next(iter(path.read_text(encoding="utf-8", errors="replace").splitlines()), "")
    return first.removeprefix("#").strip() if first.startswith("#") else ""

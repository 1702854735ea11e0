"""The configurations shipped with the suite, and how they are named on the command line."""

from collections.abc import Sequence
from pathlib import Path

from core.config import Config, ConfigLibrary, load_config
from core.program import command_line

SHIPPED = ConfigLibrary(
    folder=Path(__file__).resolve().parent,
    sorted_by=("methods", "refiners", "grids", "searches"),
    packages=("core", "methods", "refiners", "experiments"),
)


def read_config_file(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration of a file, which may include shipped ones, with overrides on top.

    Raises ValueError, with file and line, for any error.
    """
    return load_config(path, overrides, SHIPPED)


def config_path(name: str) -> Path:
    """The path of a configuration, given by path or by the name of a shipped one (``.gin``
    optional).
    """
    path = Path(name) if Path(name).is_file() else SHIPPED.find(name)
    if path is None:
        near = SHIPPED.nearest(name)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(
            f"configuration {name!r} is neither a file nor a shipped configuration "
            f"(see '{command_line('list', 'configs')}'){hint}"
        )
    return path


def config_rows() -> list[dict[str, str]]:
    """Every shipped configuration with its first comment line."""
    return [
        {"name": name, "summary": path.read_text().splitlines()[0].removeprefix("#").strip()}
        for name, path in SHIPPED.files().items()
    ]

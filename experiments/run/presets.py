"""The shipped configurations by the short names that people type, such as ``demo``.

The folder that sorts a file is left out of its name; only ``published/`` stays, because the papers'
settings are many.
"""

from pathlib import Path

from core.config.registry import did_you_mean
from core.program import command_line

CONFIGS_DIR = Path(__file__).resolve().parents[1] / "configs"
LEFT_OUT = ("methods", "refiners", "grids", "searches")


def config_path(name: str) -> Path:
    """A configuration file: a path, or the name of a shipped one with or without ``.gin``."""
    if Path(name).is_file():
        return Path(name)
    shipped = _shipped()
    short = name.removesuffix(".gin")
    if short in shipped:
        return shipped[short]
    inside = CONFIGS_DIR / f"{short}.gin"
    if inside.is_file():
        return inside
    raise ValueError(
        f"configuration {name!r} is neither a file nor a shipped configuration "
        f"(see '{command_line('list', 'configs')}'){did_you_mean(Path(name).stem, shipped)}"
    )


def config_names() -> list[str]:
    """Names of the shipped configurations, sorted."""
    return sorted(_shipped())


def config_rows() -> list[dict[str, str]]:
    """Each shipped configuration with its first comment line."""
    return [
        {"name": name, "summary": path.read_text().splitlines()[0].removeprefix("#").strip()}
        for name, path in sorted(_shipped().items())
    ]


def _shipped() -> dict[str, Path]:
    found = {}
    for path in CONFIGS_DIR.rglob("*.gin"):
        inside = path.relative_to(CONFIGS_DIR).with_suffix("")
        found[inside.name if inside.parts[0] in LEFT_OUT else inside.as_posix()] = path
    return found

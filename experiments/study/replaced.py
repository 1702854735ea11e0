"""Settings of a run that the lists of a grid or a search replace: refused, or noted."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from core.config import Config, format_value
from experiments.configs import SHIPPED

ROOT = "experiment"
OVERRIDE = "--set"


def replaced_settings(config: Config, owner: str, replaced_by: Mapping[str, str]) -> list[str]:
    """A note for every such setting that a configuration binds without effect.

    ``replaced_by`` names, for each parameter of the experiment, the list that takes its place, such
    as ``grid.seeds``. Defaults of shipped configurations are not worth a note. Raises ValueError
    for one from the command line.
    """
    notes: list[str] = []
    for parameter, instead in replaced_by.items():
        key = f"{ROOT}.{parameter}"
        if key not in config.bindings:
            continue
        source, value = config.sources[key], format_value(config.bindings[key])
        if source == OVERRIDE:
            raise ValueError(
                f"{OVERRIDE} {key}: a {owner} takes it from {instead}; set {instead} instead"
            )
        if not _is_shipped(source):
            notes.append(
                f"{source}: {key} = {value} has no effect in a {owner}: {instead} takes its place"
            )
    return notes


def check_not_replaced(keys: Iterable[str], source: str, replaced_by: Mapping[str, str]) -> None:
    """Raise ValueError where a variant, factor or override binds a setting that a list replaces."""
    for key in keys:
        name, _, parameter = key.rpartition(".")
        if name == ROOT and parameter in replaced_by:
            raise ValueError(
                f"{replaced_by[parameter]} sets {key} in every cell: remove it from {source}"
            )


def _is_shipped(source: str) -> bool:
    return Path(source.rpartition(":")[0]).absolute().is_relative_to(SHIPPED.folder)

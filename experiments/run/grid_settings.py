"""Settings of a grid in a file that is used for something else: dropped, but never where typed."""

from core.config import Config
from core.config.parse import OVERRIDE
from core.program import command_line

_PREFIX = "grid."


def grid_settings(config: Config, used_for: str) -> list[str]:
    """The settings of a grid, which have no effect on ``used_for``.

    Raises ValueError where one of them is an override.
    """
    found = [key for key in config.bindings if key.startswith(_PREFIX)]
    if given := [key for key in found if config.sources[key] == OVERRIDE]:
        raise ValueError(
            f"{OVERRIDE}: {given[0]} has no effect on {used_for}; remove it, or use "
            f"'{command_line('grid')}'"
        )
    return found

"""The settings in force in a run, and the publications of the classes that it uses."""

from core.config import Config, format_value, lookup, references
from core.store.settings import Operative

ROOT = "experiment"


def operative_of(config: Config) -> Operative:
    """Every setting that building the run reads, defaults included, and what its classes cite."""
    values = config.operative(ROOT)
    used = {key.rpartition(".")[0] for key in values}
    used |= {part.name for value in values.values() for part in references(value)}
    return Operative(
        settings={key: format_value(value) for key, value in values.items()},
        sources={name: text for name in sorted(used) if (text := lookup(name).reference)},
    )

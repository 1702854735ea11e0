"""``config.gin``: the resolved configuration of a run, one binding per line."""

from pathlib import Path

from core.store.atomic import write_atomic
from core.store.names import CONFIG_NAME


def write_config(run_dir: Path, text: str) -> None:
    """Write the resolved configuration of a run, atomically."""
    write_atomic(run_dir / CONFIG_NAME, text)


def has_config(run_dir: Path) -> bool:
    """Whether the run has begun, so that its configuration exists."""
    return (run_dir / CONFIG_NAME).is_file()


def read_config(run_dir: Path) -> str:
    """The text of the resolved configuration. Raises ValueError for a folder that has none."""
    if not has_config(run_dir):
        raise ValueError(f"{run_dir} is not a run folder: it has no {CONFIG_NAME}")
    return (run_dir / CONFIG_NAME).read_text(encoding="utf-8")


def read_settings(run_dir: Path) -> dict[str, str]:
    """The resolved settings of a run as text, by ``Class.parameter``.

    Raises ValueError for a folder that has no configuration.
    """
    pairs = (line.partition(" = ") for line in read_config(run_dir).splitlines())
    return {key: value for key, equals, value in pairs if equals}

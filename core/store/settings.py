"""``config.gin``: the resolved configuration of a run, one binding per line."""

from pathlib import Path

from core.store.atomic import write_atomic
from core.store.checksums import file_sha256
from core.store.names import CONFIG_NAME, RECORD_NAME
from core.store.own_files import require_own
from core.store.record import check_place, read_record


def write_config(run_dir: Path, text: str) -> str:
    """Write the resolved configuration of a run, atomically; returns the sha256 of the file."""
    write_atomic(run_dir / CONFIG_NAME, text)
    return file_sha256(run_dir / CONFIG_NAME)


def has_config(run_dir: Path) -> bool:
    """Whether the run has begun, so that its configuration exists."""
    return (run_dir / CONFIG_NAME).is_file()


def read_config(run_dir: Path) -> str:
    """The text of the resolved configuration.

    Raises ValueError for a folder that has none, and for one that is not the run's own.
    """
    if not has_config(run_dir):
        if (run_dir / RECORD_NAME).exists():
            raise ValueError(
                f"{run_dir} has a record, but its {CONFIG_NAME} is missing; restore it, or delete "
                "the run folder and repeat the command that made it"
            )
        raise ValueError(f"{run_dir} is not a run folder: it has no {CONFIG_NAME}")
    record = read_record(run_dir)
    if record is not None:
        check_place(run_dir, record)
        require_own(run_dir / CONFIG_NAME, record)
    return (run_dir / CONFIG_NAME).read_text(encoding="utf-8")


def read_settings(run_dir: Path) -> dict[str, str]:
    """The resolved settings of a run as text, by ``Class.parameter``.

    Raises ValueError for a folder whose configuration is missing or was changed.
    """
    pairs = (line.partition(" = ") for line in read_config(run_dir).splitlines())
    return {key: value for key, equals, value in pairs if equals}

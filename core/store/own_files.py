"""Whether the files beside a record are those that its run wrote.

A record holds the sha256 of each, so that a file that was changed, or copied from another run, is
noticed even where it is sound in itself. Records of earlier versions hold none: their files are not
checked.
"""

from pathlib import Path

from core.store.checksums import file_sha256
from core.store.names import (
    CODE_NAME,
    CONFIG_NAME,
    CORRECT_NAME,
    EPOCHS_NAME,
    OPERATIVE_NAME,
    PREDICTIONS_NAME,
    SHOTS_NAME,
)
from core.store.record import RunRecord

FILES = (
    CODE_NAME,
    OPERATIVE_NAME,
    SHOTS_NAME,
    EPOCHS_NAME,
    CORRECT_NAME,
    PREDICTIONS_NAME,
)


def file_checksums(run_dir: Path) -> dict[str, str]:
    """The sha256 of the files of a run, by name, as its record holds them."""
    return {name: file_sha256(run_dir / name) for name in FILES if (run_dir / name).is_file()}


def require_own(path: Path, record: RunRecord | None) -> None:
    """Raise ValueError where a file is not the one that the run of the record beside it wrote."""
    if not _is_own(path, record):
        raise ValueError(
            f"{path} was changed after the run: its checksum is not that of the record; restore "
            "it, or delete the run folder and repeat the command that made it"
        )


def foreign_files(run_dir: Path, record: RunRecord) -> list[str]:
    """The names of the files that are not the run's own, and of a configuration that is missing."""
    found = [name for name in (CONFIG_NAME, *FILES) if not _is_own(run_dir / name, record)]
    if record.config_sha256 and not (run_dir / CONFIG_NAME).is_file():
        found.insert(0, f"{CONFIG_NAME} (missing)")
    return found


def _is_own(path: Path, record: RunRecord | None) -> bool:
    """True for a file that does not exist, and for one of which the record says nothing."""
    if record is None:
        return True
    own = {**record.files_sha256, CONFIG_NAME: record.config_sha256}.get(path.name)
    return not own or not path.is_file() or own == file_sha256(path)

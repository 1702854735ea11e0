"""``log.jsonl``: the training log, one JSON object per epoch and line.

Each line carries the CRC-32 of its other values, so that a changed digit is noticed; lines written
by RefineLab 0.1 have none.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.store.documents import parse_json
from core.store.names import EPOCHS_NAME
from core.store.own_files import require_own
from core.store.record import read_record

CHECKSUM = "crc32"

OnEpoch = Callable[[Mapping[str, float]], None]


@contextmanager
def epoch_log(run_dir: Path, on_epoch: OnEpoch) -> Iterator[OnEpoch]:
    """Start a new log of a run; the returned function appends an epoch and passes it on."""
    with (run_dir / EPOCHS_NAME).open("w") as file:

        def write(epoch: Mapping[str, float]) -> None:
            file.write(json.dumps({**epoch, CHECKSUM: _checksum(epoch)}) + "\n")
            file.flush()
            on_epoch(epoch)

        yield write


def read_epochs(run_dir: Path) -> list[dict[str, Any]]:
    """The epochs of a run in order; empty for a run that trained nothing or has no log.

    Raises ValueError for a line that is not a JSON object or was changed, and for a log that is not
    the run's own.
    """
    path = run_dir / EPOCHS_NAME
    if not path.is_file():
        return []
    try:
        epochs = [_epoch(line) for line in path.read_text().splitlines() if line.strip()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; rerun the run") from error
    require_own(path, read_record(run_dir))
    return epochs


def _epoch(line: str) -> dict[str, Any]:
    epoch = dict(parse_json(line))
    checksum = epoch.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(epoch):
        raise ValueError("a line was changed after it was written: its checksum does not match")
    return epoch


def _checksum(epoch: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(dict(epoch), sort_keys=True).encode()):08x}"

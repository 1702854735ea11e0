"""``log.jsonl``: the training log, one JSON object per epoch and line.

A line holds ``epoch``, ``epochs``, ``lr``, the loss, its terms by their names, and in ``metrics``
what method and refiner tell besides. A number that is not finite is null. Each line carries the
CRC-32 of its other values, so that a changed digit is noticed; lines written by RefineLab 0.1 have
none.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.store.documents import parse_json
from core.store.names import EPOCHS_NAME
from core.store.own_files import require_own
from core.store.record import read_record

CHECKSUM, METRICS = "crc32", "metrics"
NOT_TERMS = ("epoch", "epochs", "lr", METRICS)
TAKEN = frozenset({*NOT_TERMS, "loss", CHECKSUM})
"""Keys of a line that are no names of terms or metrics."""

OnEpoch = Callable[[Mapping[str, float]], None]


@contextmanager
def epoch_log(run_dir: Path, on_epoch: OnEpoch) -> Iterator[OnEpoch]:
    """Start a new log of a run; the returned function appends an epoch and passes it on."""
    with (run_dir / EPOCHS_NAME).open("w") as file:

        def write(epoch: Mapping[str, float]) -> None:
            line = _finite(epoch)
            line[CHECKSUM] = _checksum(line)
            file.write(json.dumps(line, allow_nan=False) + "\n")
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


def check_logged_names(names: Iterable[str], what: str) -> None:
    """Raise ValueError for a name under which nothing can be logged: ``what`` is so named."""
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
            raise ValueError(
                f"{what} must be named by an identifier other than {', '.join(sorted(TAKEN))}, "
                f"which the training log uses itself, got {name!r}; rename it"
            )


def numbers_of(epoch: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an epoch by name, those of the metrics with ``metrics.`` before it."""
    own = epoch.get(METRICS)
    more = {f"{METRICS}.{k}": v for k, v in own.items()} if isinstance(own, dict) else {}
    values = {**epoch, **more}
    return {key: float(value) for key, value in values.items() if _is_finite(value)}


def terms_of(epoch: Mapping[str, Any]) -> dict[str, float]:
    """The loss of an epoch and its terms, where they are finite."""
    return {
        key: value
        for key, value in numbers_of(epoch).items()
        if key not in NOT_TERMS and not key.startswith(f"{METRICS}.")
    }


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _finite(value: Any) -> Any:
    """A value, and what is in it, with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _epoch(line: str) -> dict[str, Any]:
    epoch = dict(parse_json(line))
    checksum = epoch.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(epoch):
        raise ValueError("a line was changed after it was written: its checksum does not match")
    return epoch


def _checksum(epoch: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(dict(epoch), sort_keys=True).encode()):08x}"

"""``log.jsonl``: the training log, one JSON object per epoch and line."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from core.store.names import EPOCHS_NAME

OnEpoch = Callable[[Mapping[str, float]], None]


@contextmanager
def epoch_log(run_dir: Path, on_epoch: OnEpoch) -> Iterator[OnEpoch]:
    """Start a new log of a run; the returned function appends an epoch and passes it on."""
    with (run_dir / EPOCHS_NAME).open("w") as file:

        def write(epoch: Mapping[str, float]) -> None:
            file.write(json.dumps(dict(epoch)) + "\n")
            file.flush()
            on_epoch(epoch)

        yield write

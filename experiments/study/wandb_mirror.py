"""The mirror of runs in Weights & Biases; the only module that uses wandb, an optional library.

The project has the study's name, and runs are grouped by variant. Without a network, or with
``WANDB_MODE=offline``, runs are kept below ``STUDY/wandb``, from where ``wandb sync`` uploads them.
What was written is noted in ``STUDY/wandb/mirrored.jsonl``: mirroring again changes nothing.
"""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from core.store.names import LOCK_NAME, WANDB_FOLDER, WANDB_LEDGER_NAME
from experiments.study.mirror import (
    NICENESS,
    MirrorReport,
    MirrorTracker,
    StudyMirror,
    end_mirror,
    exclusive,
    serve_mirror,
    start_mirror,
)
from experiments.study.run_description import TRAINING_PREFIX, RunDescription

QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
}
START_SECONDS = 30.0
MAX_NAME = 128
ILLEGAL_IN_PROJECT = re.compile(r"[^\w.-]", re.ASCII)
DESTINATION = ("WANDB_BASE_URL", "WANDB_ENTITY")


def require_wandb() -> None:
    """Raise ValueError where wandb is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "--track wandb needs the package wandb, which is not installed; run "
            "'pip install -c constraints.txt -e .[wandb]', or use --track mlflow"
        )


class WandbTracker(MirrorTracker):
    """Mirrors the runs of a folder, and those in ``extra``, in Weights & Biases.

    Raises ValueError where wandb is not installed.
    """

    title: ClassVar[str] = "W&B"
    resync: ClassVar[tuple[str, ...]] = ("--track", "wandb")

    def __init__(self, study_dir: Path, extra: Sequence[Path] = ()) -> None:
        require_wandb()
        super().__init__(study_dir)
        self.extra = tuple(extra)

    def start(self) -> subprocess.Popen[bytes]:
        return _start(self.study_dir, niceness=NICENESS, extra=self.extra)


def sync_wandb(study_dir: Path, only: Sequence[Path] = ()) -> MirrorReport:
    """Write all runs of a study that W&B lacks, or the run folders in ``only``, and wait until that
    is done.

    Raises ValueError for a folder that does not exist, and where wandb is not installed.
    """
    if not study_dir.is_dir():
        raise ValueError(f"{study_dir} is not a study folder: it does not exist")
    require_wandb()
    return end_mirror(_start(study_dir, niceness=0, only=only), None)


def _start(
    study_dir: Path, *, niceness: int, extra: Sequence[Path] = (), only: Sequence[Path] = ()
) -> subprocess.Popen[bytes]:
    environment = {**QUIET, **os.environ}
    return start_mirror(
        __name__, study_dir, niceness=niceness, environment=environment, extra=extra, only=only
    )


class WandbMirror(StudyMirror):
    """Writes the runs of one folder to Weights & Biases, online or offline as its own settings say.

    A run that has changed is written as a new run, because W&B never accepts an identifier again
    that was deleted.
    """

    title: ClassVar[str] = "W&B"

    def __init__(
        self, study_dir: Path, extra: Sequence[Path] = (), only: Sequence[Path] = ()
    ) -> None:
        super().__init__(study_dir, "", extra, only)
        self.folder = study_dir / WANDB_FOLDER
        self.ledger = self.folder / WANDB_LEDGER_NAME
        self.wandb: Any = None
        self.held: set[tuple[str, ...]] = set()

    def connect(self) -> None:
        """Import wandb, and read what was written before."""
        if self.wandb is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.locks.enter_context(exclusive(self.folder / LOCK_NAME))
        self.held = set(_read_ledger(self.ledger))
        import wandb

        self.wandb = wandb

    def write(self, run: RunDescription) -> bool:
        settings = self._settings()
        entry = (*_destination(settings), run.place, run.identity, run.digest)
        if entry in self.held:
            return False
        self._log(run, settings, entry)
        self.held.add(entry)
        with self.ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        return True

    def _settings(self) -> Any:
        return self.wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            init_timeout=START_SECONDS,
        )

    def _log(self, run: RunDescription, settings: Any, key: tuple[str, ...]) -> None:
        started = self.wandb.init(
            project=ILLEGAL_IN_PROJECT.sub("_", self.study_dir.name)[:MAX_NAME],
            id=f"{run.identity}-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}",
            name=run.name[:MAX_NAME],
            group=run.variant[:MAX_NAME],
            config={**run.settings, "refinelab": dict(run.tags)},
            dir=str(self.study_dir),
            settings=settings,
            reinit="finish_previous",
            resume="allow" if settings.mode != "offline" else None,
        )
        for step, epoch in enumerate(run.epochs, start=1):
            started.log({f"{TRAINING_PREFIX}{key}": value for key, value in epoch.items()}, step)
        started.summary.update(dict(run.metrics))
        with tempfile.TemporaryDirectory() as folder:
            run.write_artifacts(Path(folder))
            files = self.wandb.Artifact(f"run-{run.identity}", type="run")
            files.add_dir(folder)
            started.log_artifact(files)
            started.finish(exit_code=0 if run.status == "finished" else 1)


def _destination(settings: Any) -> tuple[str, str, str]:
    """Where runs go: another server, or another user of it, holds none of them yet."""
    if settings.mode == "offline":
        return "offline", "", ""
    return "online", settings.base_url or "", settings.entity or ""


def _read_ledger(path: Path) -> list[tuple[str, ...]]:
    """What was written before; a line that was cut off by a kill counts as not written."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            entries.append(tuple(json.loads(line)))
    return entries


if __name__ == "__main__":
    serve_mirror(WandbMirror)

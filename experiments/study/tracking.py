"""The mirror of runs in MLflow; the only module that uses mlflow.

The experiment has the study's name, and one parent run per variant, in which its runs are nested.
Each run carries its identity and a digest of its description as tags, so that mirroring again
changes nothing.
"""

import hashlib
import json
import os
import posixpath
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from core.store.checksums import file_sha256
from core.store.names import (
    ARTIFACTS_NAME,
    CONFIG_NAME,
    FIGURES_FOLDER,
    MIRROR_LOCK_NAME,
    MLFLOW_LOCK_NAME,
    MLFLOW_NAME,
    REPORT_FOLDER,
)
from core.store.record import RunRecord
from experiments.study.mirror import (
    ADDRESS_VARIABLE,
    NICENESS,
    MirrorReport,
    MirrorTracker,
    StudyMirror,
    end_mirror,
    exclusive,
    serve_mirror,
    start_mirror,
)
from experiments.study.run_description import (
    IDENTITY_TAG,
    TRAINING_PREFIX,
    RunDescription,
    scores_of,
    settings_of,
)

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
MAX_PARAMS = 100
MAX_METRICS = 1000
MAX_KEY = 250
MAX_VALUE = 6000
CUT = f" [cut; the whole text is in the artifact {CONFIG_NAME}]"
ILLEGAL = re.compile(r"[^\w\-.: /]", re.ASCII)
CONTENT_TAG = "refinelab.record"
VARIANT_TAG = "refinelab.variant"
PLACE_TAG = "refinelab.place"
PARENT_TAG = "mlflow.parentRunId"
DATABASE = "sqlite:///"
NOTE_TAG = "mlflow.note.content"
WHOLE_NAME = "parameters.json"
RUN_STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
FIRST_PORT = 5000


def tracking_uri(runs_dir: Path) -> str:
    """``MLFLOW_TRACKING_URI``, or else the database file ``mlflow.db`` in ``runs_dir``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _database_url(runs_dir.absolute() / MLFLOW_NAME)


def _database_url(path: Path) -> str:
    """The URL of a database file: ``%`` would begin an escape in it, ``?`` its options."""
    return DATABASE + str(path).replace("%", "%25").replace("?", "%3F")


def _remove_stray_folder(uri: str) -> None:
    """Remove the empty folder that MLflow makes for the escapes of a database's URL."""
    if uri.startswith(DATABASE) and "%" in uri:
        with suppress(OSError):
            os.removedirs(Path(uri.removeprefix(DATABASE)).parent)


class MlflowTracker(MirrorTracker):
    """Mirrors the runs of a folder, and those in ``extra``, in MLflow."""

    title: ClassVar[str] = "MLflow"

    def __init__(self, study_dir: Path, uri: str | None = None, extra: Sequence[Path] = ()) -> None:
        super().__init__(study_dir)
        self.uri = uri or tracking_uri(study_dir.parent)
        self.extra = tuple(extra)

    def start(self) -> subprocess.Popen[bytes]:
        more = {"extra": self.extra} if self.extra else {}
        return _start_mirror(self.study_dir, self.uri, niceness=NICENESS, **more)


def sync(study_dir: Path, uri: str | None = None, only: Sequence[Path] = ()) -> MirrorReport:
    """Write all runs of a study that MLflow lacks, or the run folders in ``only``, and wait until
    that is done.

    Raises:
        ValueError: the folder does not exist.
    """
    if not study_dir.is_dir():
        raise ValueError(f"{study_dir} is not a study folder: it does not exist")
    address = uri or tracking_uri(study_dir.parent)
    return end_mirror(_start_mirror(study_dir, address, niceness=0, only=only), None)


def _start_mirror(
    study_dir: Path,
    uri: str,
    *,
    niceness: int,
    extra: Sequence[Path] = (),
    only: Sequence[Path] = (),
) -> subprocess.Popen[bytes]:
    # Arguments are visible to everybody on the machine, and an address may hold a password.
    environment = {**QUIET, **os.environ, ADDRESS_VARIABLE: uri}
    return start_mirror(
        __name__, study_dir, niceness=niceness, environment=environment, extra=extra, only=only
    )


class MlflowMirror(StudyMirror):
    """Writes the runs of one folder to MLflow.

    A run that MLflow holds with other content, or only in part because its writer was killed, is
    replaced.
    """

    title: ClassVar[str] = "MLflow"

    def __init__(
        self, study_dir: Path, uri: str, extra: Sequence[Path] = (), only: Sequence[Path] = ()
    ) -> None:
        super().__init__(study_dir, uri, extra, only)
        self.client: Any = None
        self.experiment = ""
        self.held: dict[tuple[str, str], tuple[str, str]] = {}
        self.parents: dict[str, tuple[str, str]] = {}

    def connect(self) -> None:
        """Open the store, create what it lacks, and read what it holds of this study."""
        if self.client is not None:
            return
        self.locks.enter_context(exclusive(self.study_dir / MIRROR_LOCK_NAME))
        from mlflow import MlflowClient

        with exclusive(self.study_dir.parent / MLFLOW_LOCK_NAME):
            client = MlflowClient(tracking_uri=self.address)
            found = client.get_experiment_by_name(self.study_dir.name)
        _remove_stray_folder(self.address)
        if found is None:
            location = (self.study_dir / ARTIFACTS_NAME).absolute().as_uri()
            self.experiment = client.create_experiment(self.study_dir.name, location)
        else:
            self.experiment = found.experiment_id
        self.client = client
        self._read_held()

    def _read_held(self) -> None:
        token = None
        while token != "":
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                complete = run.info.status in RUN_STATUS.values()
                content = tags.get(CONTENT_TAG, "") if complete else ""
                known = (run.info.run_id, content)
                if IDENTITY_TAG in tags:
                    self.held[tags[IDENTITY_TAG], tags.get(PLACE_TAG, "")] = known
                elif VARIANT_TAG in tags:
                    self.parents[tags[VARIANT_TAG]] = known
            token = page.token or ""

    def write(self, run: RunDescription) -> bool:
        parent = self._parent(run)
        content = hashlib.sha256(f"{run.digest} {parent}".encode()).hexdigest()
        key = (run.identity, run.place)
        run_id, held_content = self.held.get(key, ("", ""))
        if held_content == content:
            return False
        if run_id:
            self.client.delete_run(run_id)
        self.held[key] = (self._create(run, parent, content), content)
        return True

    def _parent(self, run: RunDescription) -> str:
        """The run of a variant, in which its runs are nested; created where there is none."""
        if run.variant not in self.parents:
            tags = {VARIANT_TAG: run.variant, NOTE_TAG: "the runs of one variant"}
            name = run.variant[:MAX_KEY] or "no name"
            made = self.client.create_run(self.experiment, run.start, _short_values(tags), name)
            self.client.set_terminated(made.info.run_id, "FINISHED", run.end)
            self.parents[run.variant] = (made.info.run_id, "")
        return self.parents[run.variant][0]

    def finish_pass(self) -> None:
        """The figures of the study's report, where there is one, belong to its variants."""
        folder = self.study_dir / REPORT_FOLDER / FIGURES_FOLDER
        figures = {p.name: file_sha256(p) for p in sorted(folder.glob("*.png"))}
        if not figures:
            return
        content = hashlib.sha256(json.dumps(figures).encode()).hexdigest()
        for variant, (run_id, held_content) in self.parents.items():
            if held_content != content:
                for name in figures:
                    self.client.log_artifact(run_id, str(folder / name), FIGURES_FOLDER)
                self.client.set_tag(run_id, CONTENT_TAG, content)
                self.parents[variant] = (run_id, content)

    def _create(self, run: RunDescription, parent: str, content: str) -> str:
        whole = _not_whole(run.settings)
        tags = {**run.tags, CONTENT_TAG: content, PARENT_TAG: parent, "run_dir": str(run.folder)}
        if run.place:
            tags[PLACE_TAG] = run.place
        if whole:
            tags[NOTE_TAG] = f"{len(whole)} parameters are whole only in {WHOLE_NAME}"
        made = self.client.create_run(
            self.experiment, run.start, _short_values(tags), run.name[:MAX_KEY]
        )
        run_id: str = made.info.run_id
        if whole:
            self.client.log_text(run_id, json.dumps(whole, indent=1), WHOLE_NAME)
        self._log_numbers(run_id, run)
        with tempfile.TemporaryDirectory() as folder:
            run.write_artifacts(Path(folder))
            self.client.log_artifacts(run_id, folder)
        self.client.set_terminated(run_id, RUN_STATUS[run.status], run.end)
        return run_id

    def _log_numbers(self, run_id: str, run: RunDescription) -> None:
        """Parameters, final metrics and the metrics of every epoch, in as few calls as allowed."""
        from mlflow.entities import Metric, Param

        metrics = [Metric(k, v, run.end, 0) for k, v in _legal(run.metrics).items()]
        for step, epoch in enumerate(run.epochs, start=1):
            values = {f"{TRAINING_PREFIX}{key}": value for key, value in epoch.items()}
            metrics += [Metric(k, v, run.end, step) for k, v in _legal(values).items()]
        params = [Param(key, _short(value)) for key, value in _legal(run.settings).items()]
        for first in range(0, len(metrics), MAX_METRICS):
            self.client.log_batch(run_id, metrics=metrics[first : first + MAX_METRICS])
        for first in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(run_id, params=params[first : first + MAX_PARAMS])


def metrics_of(record: RunRecord) -> dict[str, float]:
    """The final scores of a run, with keys that MLflow accepts."""
    return _legal(scores_of(record))


def params_of(run_dir: Path, record: RunRecord) -> dict[str, str]:
    """The run's settings and factor levels, with keys and lengths that MLflow accepts."""
    return {key: _short(value) for key, value in _legal(settings_of(run_dir, record)).items()}


def _short(value: str) -> str:
    """A value that MLflow accepts; one that is too long says that it was cut."""
    return value if len(value) <= MAX_VALUE else value[: MAX_VALUE - len(CUT)] + CUT


def _short_values(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:MAX_VALUE] for key, value in tags.items()}


def _not_whole(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings whose key or value is another one among the parameters in MLflow."""
    params = {key: _short(value) for key, value in _legal(settings).items()}
    return {key: value for key, value in settings.items() if params.get(key) != value}


Item = TypeVar("Item")


def _legal(named: Mapping[str, Item]) -> dict[str, Item]:
    """The same under keys that MLflow accepts."""
    return {key: named[own] for key, own in _legal_keys(named).items()}


def _legal_keys(keys: Iterable[str]) -> dict[str, str]:
    """A key that MLflow accepts for each of these: legal characters, no path that means another
    (``a//b``), not too long, and all different.
    """
    legal: dict[str, str] = {}
    for key in keys:
        made = ILLEGAL.sub("_", key)
        if posixpath.normpath(made) != made or made.startswith(("/", ".")):
            made = re.sub(r"^\.|/", "_", made)
        made = made[:MAX_KEY]
        if made in legal:
            digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:8]
            made = f"{made[: MAX_KEY - 9]}_{digest}"
        legal[made] = key
    return legal


@dataclass(frozen=True, slots=True, kw_only=True)
class UiCommand:
    """How to start a web server, for ``os.execve``, and its address."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    url: str


def ui_command(runs_dir: Path, *, port: int = FIRST_PORT) -> UiCommand:
    """MLflow's web interface for ``runs_dir``, on this machine only, at the next free port."""
    port = free_port(port)
    options = {
        "--default-artifact-root": runs_dir.absolute().as_uri(),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
    }
    argv = [sys.executable, "-m", "mlflow", "server"]
    argv += [word for pair in options.items() for word in pair]
    env = {
        **os.environ,
        **QUIET,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(runs_dir),
    }
    return UiCommand(argv=tuple(argv), env=env, url=f"http://127.0.0.1:{port}")


def free_port(first: int) -> int:
    """The first free port of this machine from ``first`` on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ValueError(f"no free port from {first} to {first + 99}: choose another with --port")


if __name__ == "__main__":
    serve_mirror(partial(MlflowMirror, uri=os.environ[ADDRESS_VARIABLE]))

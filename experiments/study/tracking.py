"""The mirror of a study in MLflow; the only module that uses mlflow.

Records are authoritative; MLflow holds a copy for inspection. A separate mirror process, at low
priority, writes every finished run: neither the driver nor a worker imports mlflow, waits for it,
or fails with it. Each run carries its identity and a hash of its record as tags, so that mirroring
again changes nothing.
"""

import hashlib
import json
import os
import posixpath
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO, cast

from filelock import FileLock, Timeout

from core.metrics import harmonic_mean
from core.program import command_line
from core.store.names import (
    ARTIFACTS_NAME,
    CONFIG_NAME,
    MIRROR_LOCK_NAME,
    MIRROR_LOG_NAME,
    MLFLOW_LOCK_NAME,
    MLFLOW_NAME,
    RECORD_NAME,
)
from core.store.record import RunRecord, check_place, read_record, record_paths, to_json
from core.store.secrets import without_secrets
from core.store.settings import has_config, read_config, read_settings

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
URI_VARIABLE = "REFINELAB_MIRROR_URI"
NICENESS = 10
CLOSE_SECONDS = 60.0
LOCK_SECONDS = 30.0
MAX_PARAMS = 100
MAX_KEY = 250
MAX_VALUE = 6000
CUT = " [cut; the whole text is in the artifact config.gin]"
ILLEGAL = re.compile(r"[^\w\-.: /]", re.ASCII)
IDENTITY_TAG = "refinelab.identity"
CONTENT_TAG = "refinelab.record"
DATABASE = "sqlite:///"
NOTE_TAG = "mlflow.note.content"
WHOLE_NAME = "parameters.json"
RUN_STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
FIRST_PORT = 5000


class Tracker(Protocol):
    """Is notified of finished runs."""

    def finished(self, run_dir: Path) -> None:
        """The record in ``run_dir`` is written. Returns at once and never raises."""
        ...

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        """Wait at most ``seconds`` for pending work; returns a warning for the user, or nothing."""
        ...


class NullTracker:
    """Does nothing."""

    def finished(self, run_dir: Path) -> None:
        return

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReport:
    """Counts of runs that were written, were already in MLflow, or were not written, and why."""

    written: int = 0
    present: int = 0
    left: int = 0
    error: str = ""

    def __str__(self) -> str:
        reason = f" ({self.error})" if self.error else ""
        return (
            f"{self.written} runs written, {self.present} already in MLflow, "
            f"{self.left} not written{reason}"
        )


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


class MlflowTracker:
    """Starts a study's mirror process with the first finished run; later runs wake it up."""

    def __init__(self, study_dir: Path, uri: str | None = None) -> None:
        self.study_dir = study_dir
        self.uri = uri or tracking_uri(study_dir.parent)
        self.process: subprocess.Popen[bytes] | None = None

    def finished(self, run_dir: Path) -> None:
        with suppress(OSError):  # a full pipe or a dead mirror: its last pass, or sync, catches up
            if self.process is None:
                self.process = _start_mirror(self.study_dir, self.uri, niceness=NICENESS)
                os.set_blocking(_wake_up(self.process), False)
            os.write(_wake_up(self.process), b"\n")

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        if self.process is None:
            return ""
        report = _end_mirror(self.process, seconds)
        self.process = None
        if not report.error:
            return ""
        missing = f", {report.left} runs are missing" if report.left else ""
        return f"MLflow is behind{missing} ({report.error}): {command_line('sync', self.study_dir)}"


def sync(study_dir: Path, uri: str | None = None) -> MirrorReport:
    """Write all runs of a study that MLflow lacks, and wait until that is done.

    Raises:
        ValueError: the folder does not exist.
    """
    if not study_dir.is_dir():
        raise ValueError(f"{study_dir} is not a study folder: it does not exist")
    process = _start_mirror(study_dir, uri or tracking_uri(study_dir.parent), niceness=0)
    return _end_mirror(process, None)


def _start_mirror(study_dir: Path, uri: str, *, niceness: int) -> subprocess.Popen[bytes]:
    search_path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    with _log_file(study_dir / MIRROR_LOG_NAME) as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(study_dir.absolute()), str(niceness)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Arguments are visible to everybody on the machine, and an address may hold a password.
            env={**QUIET, **os.environ, "PYTHONPATH": search_path, URI_VARIABLE: uri},
            process_group=0,
        )


def _log_file(path: Path) -> BinaryIO:
    """The log, or nothing where it cannot be written."""
    try:
        return path.open("ab")
    except OSError:
        return open(os.devnull, "wb")


def _wake_up(process: subprocess.Popen[bytes]) -> int:
    """The descriptor of the pipe that wakes a mirror process; closing it ends the process."""
    assert process.stdin is not None
    return process.stdin.fileno()


def _end_mirror(process: subprocess.Popen[bytes], seconds: float | None) -> MirrorReport:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return MirrorReport(error=f"not finished after {seconds:g} seconds")
    try:
        return MirrorReport(**json.loads(output.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return MirrorReport(error=f"the mirror process ended with exit code {process.returncode}")


def mirror_process(study_dir: Path, uri: str, niceness: int) -> None:
    """The mirror process: one pass per wake-up, one when the driver ends, then a report."""
    os.nice(niceness)
    sys.stderr = cast(TextIO, _WithoutSecrets(sys.stderr, uri))
    mirror = MlflowMirror(study_dir, uri)
    mirror.run_pass()
    while os.read(0, 65536):
        mirror.run_pass()
    report = mirror.run_pass()
    mirror.close()
    print(json.dumps(asdict(report)), flush=True)


class _WithoutSecrets:
    """A stream that masks passwords and tokens in what is written to it, line by line."""

    def __init__(self, stream: TextIO, uri: str) -> None:
        self.stream = stream
        self.uri = uri

    def write(self, text: str) -> int:
        self.stream.write(without_secrets(text, self.uri))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class MlflowMirror:
    """Writes the records of one study folder to MLflow; imports mlflow with the first one.

    The experiment has the study's name. A run that MLflow holds with other content, or only in part
    because its writer was killed, is replaced. After an error, nothing more is written.
    """

    def __init__(self, study_dir: Path, uri: str) -> None:
        self.study_dir = study_dir
        self.uri = uri
        self.client: Any = None
        self.experiment = ""
        self.held: dict[str, tuple[str, str]] = {}
        self.seen: dict[Path, int] = {}
        self.written = 0
        self.error = ""
        self.locks = ExitStack()

    def run_pass(self) -> MirrorReport:
        """Write every record that is new since the last pass; damaged ones are skipped."""
        paths = record_paths(self.study_dir)
        new = {path: path.stat().st_mtime_ns for path in paths}.items() - self.seen.items()
        damaged: list[str] = []
        if new and not self.error:
            try:
                self._connect()
                damaged = [text for path, stamp in sorted(new) if (text := self._take(path, stamp))]
            except Exception as error:
                traceback.print_exc()
                text = without_secrets(f"{type(error).__name__}: {error}", self.uri)
                self.error = text.splitlines()[0][:300]
        return MirrorReport(
            written=self.written,
            present=len(self.seen) - self.written,
            left=len(paths) - len(self.seen),
            error=self.error or "; ".join(damaged[:1]),
        )

    def _take(self, path: Path, stamp: int) -> str:
        """Mirror one record; returns what is wrong with it, or nothing."""
        try:
            record = read_record(path.parent)
            if record is not None:
                check_place(path.parent, record)
        except ValueError as error:
            return str(error)
        if record is not None:
            self._write(path.parent, record)
            self.seen[path] = stamp
        return ""

    def close(self) -> None:
        """Let other processes mirror this study."""
        self.locks.close()

    def _connect(self) -> None:
        """Open the store, create what it lacks, and read what it holds of this study."""
        if self.client is not None:
            return
        self.locks.enter_context(_exclusive(self.study_dir / MIRROR_LOCK_NAME))
        from mlflow import MlflowClient

        with _exclusive(self.study_dir.parent / MLFLOW_LOCK_NAME):
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.study_dir.name)
        _remove_stray_folder(self.uri)
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
                complete = run.info.status in RUN_STATUS.values()
                content = run.data.tags.get(CONTENT_TAG, "") if complete else ""
                self.held[run.data.tags.get(IDENTITY_TAG, "")] = (run.info.run_id, content)
            token = page.token or ""

    def _write(self, run_dir: Path, record: RunRecord) -> None:
        content = hashlib.sha256(to_json(record).encode()).hexdigest()
        run_id, held_content = self.held.get(record.identity, ("", ""))
        if held_content == content:
            return
        if run_id:
            self.client.delete_run(run_id)
        run_id = self._create(run_dir, record, content)
        self.held[record.identity] = (run_id, content)
        self.written += 1

    def _create(self, run_dir: Path, record: RunRecord, content: str) -> str:
        from mlflow.entities import Metric, Param

        end = (run_dir / RECORD_NAME).stat().st_mtime_ns // 1_000_000
        start = end - int(1000 * record.cost.total_seconds) if record.cost else end
        tags = {**tags_of(record), CONTENT_TAG: content, "run_dir": str(run_dir)}
        whole = not_whole(run_dir, record)
        if whole:
            tags[NOTE_TAG] = f"{len(whole)} parameters are whole only in {WHOLE_NAME}"
        name = f"{record.variant}, {record.dataset}, {tags['seed']}"
        run = self.client.create_run(self.experiment, start, tags, name[:MAX_KEY])
        run_id: str = run.info.run_id
        if whole:
            self.client.log_text(run_id, json.dumps(whole, indent=1), WHOLE_NAME)
        metrics = [Metric(key, value, end, 0) for key, value in metrics_of(record).items()]
        params = [Param(key, value) for key, value in params_of(run_dir, record).items()]
        self.client.log_batch(run_id, metrics=metrics, params=params[:MAX_PARAMS])
        for first in range(MAX_PARAMS, len(params), MAX_PARAMS):
            self.client.log_batch(run_id, params=params[first : first + MAX_PARAMS])
        if any(value.endswith(CUT) for value in [p.value for p in params]) and has_config(run_dir):
            self.client.log_text(run_id, without_secrets(read_config(run_dir)), CONFIG_NAME)
        self.client.set_terminated(run_id, RUN_STATUS[record.status], end)
        return run_id


def metrics_of(record: RunRecord) -> dict[str, float]:
    """Accuracy on every target, the harmonic mean where it is defined, and the cost."""
    accuracies = {e.target: e.accuracy for e in record.evaluations}
    metrics = {key: accuracies[target] for key, target in _legal_keys(accuracies).items()}
    base, new = record.accuracy("base"), record.accuracy("new")
    if base is not None and new is not None:
        metrics["hm"] = harmonic_mean(base, new)
    if record.cost is not None:
        metrics |= {f"cost.{key}": float(value) for key, value in asdict(record.cost).items()}
    return metrics


def settings_of(run_dir: Path, record: RunRecord) -> dict[str, str]:
    """The run's settings and factor levels, without passwords."""
    resolved = read_settings(run_dir) if has_config(run_dir) else {}
    settings = {**resolved, **record.factors}
    return {key: without_secrets(value) for key, value in settings.items()}


def params_of(run_dir: Path, record: RunRecord) -> dict[str, str]:
    """The run's settings and factor levels, with keys and lengths that MLflow accepts."""
    settings = settings_of(run_dir, record)
    return {key: _short(settings[own]) for key, own in _legal_keys(settings).items()}


def _short(value: str) -> str:
    """A value that MLflow accepts; one that is too long says that it was cut."""
    return value if len(value) <= MAX_VALUE else value[: MAX_VALUE - len(CUT)] + CUT


def not_whole(run_dir: Path, record: RunRecord) -> dict[str, str]:
    """The settings whose key or value is another one among the parameters in MLflow."""
    params = params_of(run_dir, record)
    settings = settings_of(run_dir, record)
    return {key: value for key, value in settings.items() if params.get(key) != value}


def tags_of(record: RunRecord) -> dict[str, str]:
    """What identifies a run."""
    tags = {
        IDENTITY_TAG: record.identity,
        "variant": record.variant,
        "dataset": record.dataset,
        "protocol": record.protocol,
        "regime": record.regime,
        "selection": record.selection,
        "seed": "no seed" if record.seed is None else f"seed {record.seed}",
        "status": record.status,
        "message": without_secrets(record.message),
    }
    return {key: value[:MAX_VALUE] for key, value in tags.items()}


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


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a file's lock; raises TimeoutError when another process keeps it for long."""
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise TimeoutError(f"another process is mirroring this study: it holds {path}") from None
    try:
        yield
    finally:
        lock.release()


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
    mirror_process(Path(sys.argv[1]), os.environ[URI_VARIABLE], int(sys.argv[2]))

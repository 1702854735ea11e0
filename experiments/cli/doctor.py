"""``doctor``: what is installed, what is missing, and how to fix it."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer

from core.machine import ONEDNN_VARIABLE, available_cores, onednn_setting
from core.program import command_line
from experiments.cli.console import console, print_json, table
from experiments.cli.options import RUNS, Json, Runs, cache_dir

PACKAGES = {
    "torch": "2.6",
    "torchvision": "0.21",
    "open_clip_torch": "3.0",
    "gin-config": "0.5.0",
    "mlflow": "3.16",
    "optuna": "5.0",
    "scipy": "1.13",
    "pandas": "2.2",
    "statsmodels": "0.14",
    "scikit-learn": "1.5",
    "seaborn": "0.13",
    "safetensors": "0.5",
}
FREE_GB = 2.0
LIBRARIES = {"driver": "driver", "CUDA": "cuda", "cuDNN": "cudnn"}


def doctor_command(runs: Runs = RUNS, as_json: Json = False) -> None:
    """Show what is installed, what is missing, and how to fix it."""
    found = list(checks(runs))
    if as_json:
        print_json([{"name": c.name, "ok": c.ok, "found": c.found} for c in found])
    else:
        rows = [(c.name, "ok" if c.ok else "BAD", c.found, "" if c.ok else c.remedy) for c in found]
        console().print(table("doctor", ["check", "", "found", "remedy"], rows))
    raise typer.Exit(0 if all(c.ok for c in found) else 1)


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was checked, what was found, and the remedy if the check failed."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def checks(runs_dir: Path) -> Iterator[Check]:
    """All checks, in the order in which a new user needs them."""
    version = platform.python_version()
    yield Check("python", (3, 11) <= sys.version_info[:2] <= (3, 13), version, "use 3.11 to 3.13")
    for package, least in PACKAGES.items():
        yield _package(package, least)
    yield from _devices()
    yield _computing(runs_dir)
    yield _open_clip()
    yield _mosaic()
    yield _writable(runs_dir)
    yield _free_space(runs_dir)
    yield _tracking()


def _package(package: str, least: str) -> Check:
    remedy = "run 'make setup', or pip install -c constraints.txt -e ."
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Check(package, False, "missing", remedy)
    return Check(package, _numbers(found) >= _numbers(least), found, f"needs {least}; {remedy}")


def _numbers(version: str) -> tuple[int, ...]:
    head = version.split("+")[0].split(".")[:3]
    return tuple(int(part) if part.isdigit() else 0 for part in head)


def _devices() -> Iterator[Check]:
    """The devices that runs can use: every GPU with its libraries, or why there is none."""
    try:
        import torch

        from experiments.run.gpu_facts import NO_CUDA, libraries, visible_gpus
    except ImportError as error:
        yield Check("device", False, str(error).splitlines()[0], "reinstall torch")
        return
    known, gpus = libraries(), list(visible_gpus())
    cores = f"{os.cpu_count()} cores"
    if gpus:
        yield Check("device", True, f"GPUs: {len(gpus)}, {cores}")
        versions = (f"{name} {known[key] or 'unknown'}" for name, key in LIBRARIES.items())
        yield Check("cuda", True, ", ".join(versions))
        for number, text in enumerate(gpus):
            yield Check(f"cuda:{number}", True, text)
    elif torch.version.cuda is None:
        driver = f", but the machine has a driver ({known['driver']})" if known["driver"] else ""
        found = f"cpu only, {cores} (sufficient for Mosaic); {NO_CUDA}{driver}"
        yield Check("device", not driver, found, "install a build of torch for CUDA")
    else:
        found = f"cpu only, {cores} (sufficient for Mosaic); torch has CUDA {known['cuda']}, "
        driver = f"driver {known['driver']}" if known["driver"] else "no driver was found"
        yield Check("device", True, f"{found}but sees no GPU ({driver})")


def _computing(runs_dir: Path) -> Check:
    """How frozen weights are multiplied and by how many threads, as far as it was measured."""
    try:
        setting = onednn_setting()
    except ValueError as error:
        return Check("matrix product", False, str(error).split(";")[0], f"unset {ONEDNN_VARIABLE}")
    found = f"oneDNN {setting}, {available_cores()} cores may be used"
    try:
        from core.clip.measured import decisions
    except ImportError:
        return Check("matrix product", True, found)
    for said in decisions(cache_dir(runs_dir)):
        width = "+".join(map(str, said.get("widths", ())))
        found += f"; {said.get('question')} of width {width}: {said.get('answer')}"
    return Check("matrix product", True, found)


def _open_clip() -> Check:
    try:
        import core.clip.backbone  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return Check("open_clip imports", False, str(error).splitlines()[0], "run 'make setup'")
    return Check("open_clip imports", True, "yes")


def _mosaic() -> Check:
    from core.clip.backbone import load_clip
    from core.mosaic import WEIGHTS_PATH

    try:
        clip = load_clip("mosaic")
    except ValueError as error:
        return Check("mosaic weights", False, str(error), f"run '{command_line('pretrain')}'")
    size = WEIGHTS_PATH.stat().st_size / 2**20
    return Check("mosaic weights", True, f"{size:.1f} MB, fingerprint {clip.spec.fingerprint}")


def _writable(runs_dir: Path) -> Check:
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs_dir):
            pass
    except OSError as error:
        return Check(
            "runs folder",
            False,
            f"{runs_dir}: {error.strerror}",
            "choose another folder with --runs",
        )
    return Check("runs folder", True, f"{runs_dir} is writable")


def _free_space(runs_dir: Path) -> Check:
    folder = next(p for p in (runs_dir.absolute(), *runs_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free / 1e9
    return Check("free disk", free >= FREE_GB, f"{free:.0f} GB", f"free {FREE_GB:.0f} GB")


def _tracking() -> Check:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return Check("mlflow", True, uri or "sqlite database in the runs folder")

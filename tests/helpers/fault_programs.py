"""Programs that the fault tests start, kill and starve: studies and searches of fake runs.

python -m tests.helpers.fault_programs STUDY_DIR '{"variants": ["slow a"], "seeds": 3, ...}'
python -m tests.helpers.fault_programs SEARCH_DIR '{"search": [OVERRIDE, ...]}'
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from tests.helpers.paths import ROOT

FAKE = "tests.helpers.fake_runs:fake_run"
PYTHON = sys.executable


def environment(**more):
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, **more}


def start(folder, **options):
    """Start a driver; its output are pipes."""
    return subprocess.Popen(
        [PYTHON, "-m", "tests.helpers.fault_programs", str(folder), json.dumps(options)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, seconds=120):
    """Exit code, output and errors of a process that ends by itself."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output, errors


def drive(folder, seconds=120, **options):
    return finish(start(folder, **options), seconds)


def program(*words, cwd, seconds=240, prefix=(), **more):
    """Exit code, output and errors of a command of the program."""
    started = subprocess.Popen(
        [*prefix, PYTHON, str(ROOT / "main.py"), *map(str, words)],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )
    return finish(started, seconds)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def records(study_dir):
    return sorted(study_dir.glob("*/record.json"))


def texts(study_dir):
    """All records by the name of their folder."""
    return {path.parent.name: path.read_text() for path in records(study_dir)}


@contextmanager
def small_disk(folder, size="256k"):
    """A file system of its own at a folder; gives False where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, *options):
    """Change a file system that ``small_disk`` mounted, such as "ro" or "size=8m"."""
    command = ["mount", "-o", ",".join(["remount", *options]), str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def run_driver(folder, options):
    import experiments.run.registered  # noqa: F401  (the record of a failed run reads settings)
    from experiments.study.driver import run_study
    from experiments.study.progress import make_progress
    from experiments.study.share import Sharing, run_shared_study
    from experiments.workers.local import LocalExecutor
    from tests.helpers.fake_runs import fake_plan

    if at := options.get("die_before_commit"):
        _die_before_commit(at)
    if options.get("clock_jumps"):
        real, began = time.time, time.monotonic()
        time.time = lambda: real() + (1e6 if time.monotonic() - began > 0.5 else 0)
    plan = fake_plan(options["variants"], ["alpha"], range(options.get("seeds", 2)))
    limits = {key: options[key] for key in ("silent_seconds", "job_seconds") if key in options}
    jobs, logs = options.get("jobs", 1), folder / "logs" if options.get("logs") else folder
    run = run_study
    if "share" in options:
        run = partial(
            run_shared_study,
            share=Sharing(num_workers=lambda: jobs, silent_seconds=options["share"]),
        )
    outcome = run(
        plan,
        folder,
        LocalExecutor(jobs, entry=FAKE, log_dir=logs, **limits),
        runtime=SimpleNamespace(cache_dir="cache", data_root=None, device="cpu"),
        progress=make_progress(),
        retry_failed=options.get("retry_failed", False),
        steal_lock=options.get("steal_lock", False),
    )
    kept = {"done": outcome.done, "skipped": outcome.skipped, "failed": outcome.failed}
    counts = {name: len(cells) for name, cells in {**kept, "left": outcome.left}.items()}
    print(json.dumps({**counts, "paused": outcome.paused}))
    return outcome.exit_code


def _die_before_commit(at):
    from experiments.study import driver

    real, calls = driver.write_record, iter(range(1, 10_000))

    def die(run_dir, record):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(run_dir, record)

    driver.write_record = die


def run_search(folder, options):
    from experiments.study.progress import make_progress
    from tests.helpers.fake_searches import parsed, run_inline

    search = parsed(folder.parent, "search.trials=4", "search.round_size=2", *options["search"])
    return 0 if run_inline(search, folder, progress=make_progress()).complete else 3


def main(folder, options):
    run = run_search if "search" in options else run_driver
    try:
        return run(folder, options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))

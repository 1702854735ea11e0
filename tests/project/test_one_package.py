"""``refinelab``: the rooms below one name, for people who have a ``core`` of their own."""

import importlib
import os
import runpy
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import setuptools

import core.config
import methods.base
import refinelab
import refinelab.core.config
import refinelab.methods.base
from refinelab.rooms import ROOMS
from tests.helpers.paths import ROOT

MINE = {
    "core/__init__.py": "NAME = 'mine'\n",
    "core/config.py": "VALUE = 1\n",
    "analysis/__init__.py": "NAME = 'mine'\n",
}


def run_script(folder: Path, script: str, *, path: Path = ROOT, **environment: str) -> str:
    """What a script of somebody else prints, beside modules of theirs."""
    (folder / "script.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path), **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def theirs(tmp_path):
    """A folder with a ``core`` and an ``analysis`` of somebody else."""
    for name, text in MINE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_in_a_checkout_both_names_are_one_module():
    assert refinelab.core.config is core.config
    assert refinelab.methods.base is methods.base
    assert core.config.__spec__.name == core.config.__name__ == "core.config"
    for room in ROOMS:
        assert importlib.import_module(f"refinelab.{room}") is importlib.import_module(room)


def test_a_room_that_is_not_there_is_no_module():
    for name in ("refinelab.nothing", "refinelab.core.nothing", "refinelab.tests"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


SCRIPT = """
import sys
import core, analysis, core.config
from refinelab.methods.base import TextMethod
import refinelab.experiments.run.registered
import refinelab.analysis.text
from refinelab.core.config import registered_classes
from refinelab.core.program import PREFIX

assert core.NAME == analysis.NAME == "mine" and core.config.VALUE == 1
assert sys.modules["core"] is core and core is not refinelab.core
assert TextMethod.__module__ == "refinelab.methods.base" and PREFIX == "refinelab."
own = {name.partition(".")[0] for name in sys.modules} & {"methods", "refiners", "experiments"}
assert not own, own
print(len(registered_classes("method")), refinelab.core.config.__file__)
"""


def test_somebody_elses_core_and_analysis_are_left_alone(theirs):
    count, file = run_script(theirs, SCRIPT).split()
    assert int(count) == len(core.config.registered_classes("method"))
    assert Path(file) == ROOT / "core" / "config" / "__init__.py"


def test_short_names_that_lead_to_the_project_are_the_same_modules(tmp_path):
    script = """
    import refinelab.core.config
    import core.config, methods.coop
    import sys
    assert core.config is refinelab.core.config
    assert methods.coop is sys.modules["refinelab.methods.coop"]
    import experiments.run.registered
    print(len(core.config.registered_classes("method")))
    """
    assert int(run_script(tmp_path, script)) == len(core.config.registered_classes("method"))


def test_a_worker_of_the_installed_command_runs_below_the_one_name(theirs):
    script = """
    from pathlib import Path
    import core
    from refinelab.experiments.workers.jobs import Job
    from refinelab.experiments.workers.local import ENTRY, LocalExecutor

    assert ENTRY == "refinelab.experiments.workers.worker:run_job"
    Path("entry.py").write_text("import core, sys\\n"
        "NAME = 'refinelab.experiments.workers.worker'\\n"
        "def run(payload, progress):\\n"
        "    return {'core': core.NAME, 'worker': NAME in sys.modules}\\n")
    executor = LocalExecutor(1, log_dir=Path("logs"), entry="entry:run")
    executor.submit(Job(key="a", payload={}))
    found = []
    while not any(event.kind in ("done", "failed") for event in found):
        found += executor.poll(5)
    executor.close()
    print(found[-1].kind, found[-1].result)
    """
    assert run_script(theirs, script).strip() == "done {'core': 'mine', 'worker': True}"


@pytest.fixture
def setup_words(monkeypatch):
    """What setup.py passes to setuptools."""
    found = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_every_file_of_the_project_is_installed_below_the_one_name(setup_words):
    packages = set(setup_words["packages"])
    assert {name.partition(".")[0] for name in packages} == {"refinelab"}
    data = {
        path
        for package, patterns in setup_words["package_data"].items()
        for pattern in patterns
        for path in (ROOT / setup_words["package_dir"][package]).glob(pattern)
    }
    left = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            package = ".".join(("refinelab", *path.parent.relative_to(ROOT).parts))
            if not (path.suffix == ".py" and package in packages) and path not in data:
                left.append(path.relative_to(ROOT).as_posix())
    assert left == []


@pytest.mark.slow
def test_a_wheel_works_without_the_checkout(theirs, tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            *ROOMS,
            "refinelab",
            "setup.py",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*pip, ".", "-w", "out"], cwd=tree, check=True)
    (wheel,) = (tree / "out").glob("*.whl")
    site = tree / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"refinelab"}
    file = run_script(theirs, SCRIPT, path=site).split()[1]
    assert Path(file) == site / "refinelab" / "core" / "config" / "__init__.py"
    command = (
        "from refinelab.experiments.cli.app import main; import sys; sys.argv = ['refinelab', "
    )
    shown = run_script(theirs, f"{command}'list', 'configs']; sys.exit(main())", path=site)
    assert "text_refiner_on_cocoop" in shown

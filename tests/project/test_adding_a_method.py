"""What docs/adding_a_method.md promises: its blocks, as they stand, in a copy of the project."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from core.config import registered_classes
from core.store.record import read_record
from tests.helpers.paths import ROOT

PAGE = (ROOT / "docs" / "adding_a_method.md").read_text()
FILES = dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
(SHELL,) = re.findall(r"\n\n```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
LIST, CONTRACT, TRAIN, GRID = COMMANDS = SHELL.replace("\\\n", "").splitlines()

PICTURES = '{"train": 32, "val": 16, "test": 100}'
FEW_PICTURES = '{"train": 8, "val": 2, "test": 5}'

# Plays the commands of the page in one process; the imports take longer than the commands.
PLAYER = """
import contextlib, io, json, shlex, sys
import pytest
import main

class Outcomes:
    def __init__(self):
        self.passed, self.others = [], []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            (self.passed if report.passed else self.others).append(report.nodeid)

played = {}
for line in sys.stdin.read().splitlines():
    words, outcomes = shlex.split(line), Outcomes()
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        if words[:3] == ["python", "-m", "pytest"]:
            code = pytest.main([*words[3:], "-p", "no:cacheprovider"], plugins=[outcomes])
        else:
            assert words[:2] == ["python", "main.py"], line
            sys.argv = words[1:]
            code = main.main()
    played[line] = {"code": int(code), "shown": shown.getvalue(), **vars(outcomes)}
print(json.dumps(played))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with small datasets, and with the files of the page added to it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("core", "methods", "refiners", "experiments", "analysis", "refinelab"):
        half_written = shutil.ignore_patterns("*.pyc.*")  # by another process of the same project
        shutil.copytree(ROOT / name, folder / name, ignore=half_written)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("golden"))
    for name in ("main.py", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder / name)
    drawn = folder / "core" / "mosaic" / "datasets.py"
    assert PICTURES in drawn.read_text()
    drawn.write_text(drawn.read_text().replace(PICTURES, FEW_PICTURES))
    for name, text in FILES.items():
        assert not (folder / name).exists(), f"{name} is in the project already"
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def played(project):
    """Exit code, output and test outcomes of every command of the page."""
    done = subprocess.run(
        [sys.executable, "-c", PLAYER],
        cwd=project,
        input="\n".join(COMMANDS),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout.splitlines()[-1])
    return {line: SimpleNamespace(**found) for line, found in outcomes.items()}


def run_over_every_method():
    """The names of the tests of the contract that have a parameter for the method."""
    tree = ast.parse((ROOT / "tests" / "methods" / "test_methods.py").read_text())
    for node in tree.body:
        marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", ())]
        if any(
            re.match(r"each_(?:method|case)|pytest.mark.parametrize\('(?:name|entry)'", mark)
            for mark in marks
        ):
            yield node.name


def records_below(folder):
    return [read_record(path.parent) for path in sorted(folder.glob("*/record.json"))]


def test_the_method_is_one_file():
    assert list(FILES) == [
        "methods/text_adapter.py",
        "experiments/configs/methods/text_adapter.gin",
        "tests/methods/test_text_adapter.py",
        "text_adapter_study.gin",
    ]
    assert PAGE.count("```") == 2 * (len(FILES) + 1), "a block of the page is not played"
    assert "TextAdapter" not in {entry.name for entry in registered_classes()}


def test_every_command_of_the_page_succeeds(played):
    codes = {line: found.code for line, found in played.items()}
    assert codes == dict.fromkeys(COMMANDS, 0), [f.shown for f in played.values()]


def test_the_method_is_listed_with_its_settings_and_its_source(played):
    shown = played[LIST].shown
    assert "TextAdapter.hidden = 32  (int >= 1)" in shown
    assert "TextAdapter.scale = 1.0  (float > 0)" in shown
    assert "2110.04544" in shown


def test_the_contract_and_the_numeric_test_run_over_it(played):
    outcomes = played[CONTRACT]
    assert outcomes.others == []
    passed = {tuple(re.split(r"::|\[", node)[:2]) for node in outcomes.passed}
    contract = {("tests/methods/test_methods.py", name) for name in run_over_every_method()}
    assert len(contract) >= 12 and contract <= passed
    refiner = "test_the_refiner_works_on_every_method_that_provides_what_it_needs"
    assert ("tests/refiners/test_refiners.py", refiner) in passed
    assert ("tests/project/test_architecture.py", "test_imports_point_downwards") in passed
    matrix = [node for node in outcomes.passed if node.startswith("tests/project/test_matrix.py")]
    assert len(matrix) > 25, "the matrix of methods and parts does not know the method"
    numeric = {name for file, name in passed if file == "tests/methods/test_text_adapter.py"}
    assert numeric == set(re.findall(r"^def (test_\w+)", PAGE, re.MULTILINE)) != set()


def test_training_lowers_the_loss_and_scores_both_halves(project, played):
    assert played[TRAIN].code == 0
    (record,) = records_below(project / "runs" / "train")
    (log,) = (project / "runs" / "train").glob("*/log.jsonl")
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert record.status == "finished" and losses[-1] < losses[0]
    assert [(e.classes, sum(e.total) > 0) for e in record.evaluations] == [
        ("base", True),
        ("new", True),
    ]
    assert not set(record.evaluations[0].class_names) & set(record.evaluations[1].class_names)


def test_it_takes_part_in_a_grid_alone_and_below_the_refiner(project, played):
    assert played[GRID].code == 0
    records = records_below(project / "runs" / "text_adapter")
    assert {record.status for record in records} == {"finished"}
    ran = sorted((record.variant, record.seed) for record in records)
    trained = ("TextAdapter", "TextAdapter+TextRefiner")
    assert ran == [*((name, seed) for name in trained for seed in (1, 2)), ("ZeroShot", None)]
    sizes = {record.variant: record.cost.trainable_parameters for record in records}
    assert 0 == sizes["ZeroShot"] < sizes["TextAdapter"] < sizes["TextAdapter+TextRefiner"]


def test_what_the_page_points_to_exists():
    paths = set(re.findall(r"`((?:core|methods|refiners|experiments|tests)/[\w/]+\.\w+)`", PAGE))
    assert len(paths) > len(FILES)
    assert all((ROOT / path).is_file() for path in paths - FILES.keys())

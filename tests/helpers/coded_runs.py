"""Fake runs that record the code of a plug-in: a class in ``paper`` beside the study folder.

The second word of a variant's name is the class: "ok Alpha", "fail Beta".
"""

import json
from dataclasses import replace
from pathlib import Path

from core.store.code import RunCode, write_code
from core.store.names import OUTPUT_NAME, RECORD_NAME, WEIGHTS_NAME
from core.store.record import from_json
from experiments.run.code import add_plugin, called_by, source_tree
from tests.helpers.fake_runs import as_plain, fake_run

ENTRY = "tests.helpers.coded_runs:coded_run"
FILES = {
    "paper_alpha": """
from paper_shared import shared


class Alpha:
    def forward(self, x):
        return shared(x) + 1
""",
    "paper_beta": """
from paper_shared import shared


class Beta:
    '''Says nothing.'''
    def forward(self, x):
        return shared(x) + beta_only(x)


def beta_only(x):
    return x
""",
    "paper_shared": """
def shared(x):
    return x
""",
    "paper_other": """
def other(x):
    return x
""",
}


def write_paper(home):
    """The modules of the classes, one each; returns the path of the first."""
    (home / "paper").mkdir()
    for name, source in FILES.items():
        (home / "paper" / f"{name}.py").write_text(source)
    return home / "paper" / "paper_alpha.py"


def edit(path, old, new):
    """Edit the one file beside a path that has a text."""
    (found,) = (file for file in path.parent.glob("*.py") if old in file.read_text())
    text = found.read_text()
    assert text.count(old) == 1
    found.write_text(text.replace(old, new))


def paper_code(folder, name):
    """The code of a class as a run records it."""
    module = f"paper_{name.lower()}"
    key, plugins = f"{module}:{name}", {module: str(folder / f"{module}.py")}
    tree = source_tree()
    add_plugin(tree, module, plugins)
    found = called_by(tree, [key])
    return RunCode(classes={key: found.hash}, files=found.listing(), plugins=plugins)


def coded_run(payload, on_progress):
    """The entry: writes ``code.json`` and weights; remembers whether an older record was there."""
    run_dir = Path(payload["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    study_dir = run_dir.parent
    if (study_dir / payload["identity"] / RECORD_NAME).exists():
        (run_dir / "older").touch()
    if (wish := study_dir / "edit").exists():  # another edit while the study runs, once
        edit(study_dir.parent / "paper" / "paper_alpha.py", text := wish.read_text(), f"{text} + 9")
        wish.unlink()
    code = paper_code(study_dir.parent / "paper", payload["variant"].split()[1])
    write_code(run_dir, code)
    (run_dir / OUTPUT_NAME).write_text("output\n")
    word = (study_dir / "behave").read_text() if (study_dir / "behave").exists() else ""
    made = fake_run({**payload, "variant": word or payload["variant"]}, on_progress)
    (run_dir / WEIGHTS_NAME).write_text(code.classes[next(iter(code.classes))])
    return as_plain(replace(from_json(json.dumps(made)), code=code.classes))

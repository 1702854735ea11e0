"""Fake runs that record the code of a class in a folder ``paper`` beside the study folder.

The second word of a variant's name is the class: "ok Alpha", "fail Beta".
"""

import json
from dataclasses import replace
from pathlib import Path

from core.source.tree import SourceFolder, SourceTree
from core.store.code import RunCode, write_code
from core.store.names import OUTPUT_NAME, RECORD_NAME, WEIGHTS_NAME
from core.store.record import from_json
from tests.helpers.fake_runs import as_plain, fake_run

ENTRY = "tests.helpers.coded_runs:coded_run"
MODULE = "paper_methods"
SOURCE = """
class Alpha:
    def forward(self, x):
        return shared(x) + 1


class Beta:
    '''Says nothing.'''
    def forward(self, x):
        return shared(x) + beta_only(x)


def shared(x):
    return x


def beta_only(x):
    return x
"""


def write_paper(home):
    """The module of the classes; returns its path."""
    (home / "paper").mkdir()
    path = home / "paper" / f"{MODULE}.py"
    path.write_text(SOURCE)
    return path


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def paper_code(folder, name):
    """The code of a class as a run records it."""
    tree = SourceTree(folder, [SourceFolder(folder)])
    found = tree.called(tree.find(MODULE, name))
    files = {str(folder / path): names for path, names in found.listing().items()}
    key = f"{MODULE}:{name}"
    return RunCode(
        classes={key: found.hash}, files=files, plugins={MODULE: str(folder / f"{MODULE}.py")}
    )


def coded_run(payload, on_progress):
    """The entry: writes ``code.json`` and weights; remembers whether an older record was there."""
    run_dir = Path(payload["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    study_dir = run_dir.parent
    if (study_dir / payload["identity"] / RECORD_NAME).exists():
        (run_dir / "older").touch()
    if (wish := study_dir / "edit").exists():  # another edit while the study runs, once
        edit(study_dir.parent / "paper" / f"{MODULE}.py", text := wish.read_text(), f"{text} + 9")
        wish.unlink()
    code = paper_code(study_dir.parent / "paper", payload["variant"].split()[1])
    write_code(run_dir, code)
    (run_dir / OUTPUT_NAME).write_text("output\n")
    word = (study_dir / "behave").read_text() if (study_dir / "behave").exists() else ""
    made = fake_run({**payload, "variant": word or payload["variant"]}, on_progress)
    (run_dir / WEIGHTS_NAME).write_text(code.classes[next(iter(code.classes))])
    return as_plain(replace(from_json(json.dumps(made)), code=code.classes))

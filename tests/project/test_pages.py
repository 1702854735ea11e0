"""What the README and the other pages promise."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import experiments.cli.registered  # noqa: F401
import main
from core.clip.backbone import load_clip
from core.config import config_from_text, isolated_registry, lookup
from core.seeding import Seeds
from core.types import ClassNames
from experiments.configs import SHIPPED, config_path, read_config_file
from experiments.run.standalone import read_run_config
from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_the_method_of_the_readme_works_as_it_stands() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    with isolated_registry():
        space: dict = {}
        exec(compile(code, "README.md", "exec"), space)
        classes = ClassNames(names=("red circle", "blue square"))
        method = lookup("PulledCoOp", "method").cls(load_clip("mosaic"), classes, Seeds(1))
        plain = super(space["PulledCoOp"], method).class_texts().detach()
        pulled = method.class_texts().detach()
        torch.testing.assert_close(pulled.norm(dim=-1), torch.ones(2))
        assert float((pulled[0] * pulled[1]).sum()) > float((plain[0] * plain[1]).sum())
        with pytest.raises(ValueError, match=r"PulledCoOp\.pull"):
            config_from_text("PulledCoOp.pull = 1.2\n")
        runs = [
            read_run_config(config_path("mosaic"), ["experiment.method=@PulledCoOp", pull]).config
            for pull in ("PulledCoOp.pull=0.2", "PulledCoOp.pull=0.3")
        ]
        assert len({run.identity("experiment") for run in runs}) == 2


def test_every_command_of_the_readme_exists() -> None:
    used = set(re.findall(r"python main\.py ([\w-]*\w)", README))
    known = {c.name or c.callback.__name__ for c in main.app.registered_commands}
    known |= {group.name for group in main.app.registered_groups}
    assert used and used <= known


def test_every_shipped_configuration_loads() -> None:

    for name in SHIPPED.files():
        read_config_file(config_path(name))


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_folders_that_a_page_names_exist(page: Path) -> None:
    """Links to pages, and paths in code; capitals stand for a name that the reader gives."""
    text = page.read_text()
    for link in re.findall(r"\]\((docs/[^)]+)\)", text):
        path, _, section = link.partition("#")
        assert (ROOT / path).is_file(), path
        headings = (
            re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE) if section else []
        )
        anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert not section or section in anchors, link
    rooms = "core|methods|refiners|experiments|analysis|tests|docs"
    for path in re.findall(rf"`((?:{rooms})/[\w/]*(?:\.\w+)?)`", text):
        if not re.search(r"[A-Z]{2}", Path(path).stem) and "text_adapter" not in path:
            assert (ROOT / path).exists(), path


def test_the_citation_is_complete_and_of_this_version() -> None:
    """The fields that version 1.2.0 of the format requires, and those that we promise."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["authors"] and all(author["name"] for author in citation["authors"])
    assert citation["message"] and citation["title"] and citation["abstract"]
    assert citation["keywords"] and citation["license"] == "MIT"
    assert citation["version"] == project["version"]


def test_hooks_are_the_tools_of_the_project() -> None:
    """Nothing is downloaded: every hook calls what ``make setup`` installed."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repository["repo"] for repository in hooks} == {"local"}
    entries = [hook["entry"] for repository in hooks for hook in repository["hooks"]]
    assert entries and all(entry.startswith(".venv/bin/") for entry in entries)

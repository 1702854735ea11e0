"""What the README promises in code."""

import re

import pytest
import torch

import experiments.run.registered  # noqa: F401
import main
from core.clip.backbone import load_clip
from core.config import config_from_text, isolated_registry, lookup
from core.seeding import Seeds
from core.types import ClassNames
from experiments.configs import SHIPPED, config_path, read_config
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


def test_every_command_of_the_readme_exists() -> None:
    used = set(re.findall(r"python main\.py (\w+)", README))
    known = {c.name or c.callback.__name__ for c in main.app.registered_commands}
    known |= {group.name for group in main.app.registered_groups}
    assert used and used <= known


def test_every_shipped_configuration_loads() -> None:

    for name in SHIPPED.files():
        read_config(config_path(name))


def test_linked_files_exist() -> None:
    root = ROOT
    for path in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (root / path).is_file(), path
    for path in re.findall(
        r"`((?:core|methods|refiners|experiments|analysis)/[\w/]+\.\w+)`", README
    ):
        assert (root / path).is_file(), path

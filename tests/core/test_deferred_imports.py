"""Imports that wait until they are needed."""

import importlib
import subprocess
import sys

import pytest
import torch

from core.deferred_imports import deferred_imports
from core.train.eager_optimizers import eager
from tests.helpers.paths import ROOT

HEAVY = """
import builtins
builtins.heavy_loads = getattr(builtins, "heavy_loads", 0) + 1
from heavy.inner import Kind
def double(x):
    return 2 * x
"""
INNER = """
names = {"a": 1}
class Kind:
    def __init__(self, value):
        self.value = value
"""
LIBRARY = """
try:
    import heavy
    from heavy import double
    from heavy.inner import Kind, names
except ImportError:
    heavy = None
def twice(x):
    return double(x)
def inner_of(x):
    return heavy.inner.Kind(x).value
def is_kind(x):
    return isinstance(x, Kind)
def subclass():
    class Sub(Kind):
        pass
    return Sub
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A package that takes long, and a library that names it at its top."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text(HEAVY)
    (tmp_path / "heavy" / "inner.py").write_text(INNER)
    (tmp_path / "light.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("heavy", "heavy.inner", "light"):
        sys.modules.pop(name, None)


def load_light():
    with deferred_imports("heavy"):
        return importlib.import_module("light")


@pytest.mark.parametrize(
    ("use", "result"),
    [
        (lambda light: light.twice(4), 8),
        (lambda light: light.inner_of(5), 5),
        (lambda light: light.heavy.double(3), 6),
        (lambda light: light.names["a"], 1),
        (lambda light: light.is_kind(3), False),
        (lambda light: light.is_kind(light.Kind(3)), True),
        (lambda light: light.subclass()(7).value, 7),
        (lambda light: issubclass(light.subclass(), light.Kind), True),
        (lambda light: (light.Kind | None).__args__[1], type(None)),
        (lambda light: (None | light.Kind).__args__[0], type(None)),
    ],
)
def test_what_is_used_is_loaded_then_and_works(packages, use, result):
    light = load_light()
    assert "heavy" not in sys.modules and "heavy.inner" not in sys.modules
    assert use(light) == result
    assert "heavy" in sys.modules
    import heavy

    assert heavy.double(1) == 2 and vars(heavy)["inner"].Kind is heavy.Kind


def test_what_is_used_while_it_is_imported_is_loaded_at_once(packages):
    (packages / "light.py").write_text("from heavy import double\nvalue = double(2)\n")
    assert load_light().value == 4
    assert "heavy" in sys.modules


def test_a_missing_package_is_missing_and_a_loaded_one_is_left_alone(packages):
    import heavy

    assert load_light().double is heavy.double
    with deferred_imports("no_such_package"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_package")
    before = list(sys.meta_path)
    with pytest.raises(KeyError), deferred_imports("heavy"):
        raise KeyError
    assert sys.meta_path == before


def test_a_name_that_is_not_there_is_said_to_be_missing(packages):
    light = load_light()
    with pytest.raises(AttributeError, match="absent"):
        light.heavy.absent()


def test_torch_and_torchvision_are_whole_after_open_clip():
    """In a process of its own: another test may have loaded the compiler before."""
    code = (
        "import sys\n"
        "from core.clip.open_clip_library import load_open_clip\n"
        "open_clip = load_open_clip()\n"
        "assert 'torch._dynamo' not in sys.modules and 'timm' not in sys.modules\n"
        "import torch, torchvision\n"
        "assert torch._dynamo.__file__ and sys.modules['torch._dynamo'] is torch._dynamo\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "assert is_compile_supported('cpu') in (True, False)\n"
        "model = open_clip.CustomTextCLIP(8, dict(timm_model_name='vit_tiny_patch16_224',\n"
        "    timm_pool='', timm_proj='linear', image_size=224), dict(layers=1, width=8, heads=1))\n"
        "assert type(model.visual.trunk).__module__.startswith('timm.')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_an_eager_optimizer_steps_bit_for_bit_as_torchs(kind):
    settings = {"lr": 0.1, "weight_decay": 0.01}
    settings |= {"momentum": 0.9} if kind is torch.optim.SGD else {}
    weights = []
    for made in (kind, eager(kind)):
        torch.manual_seed(0)
        first, second = torch.randn(5, 3).requires_grad_(), torch.randn(4).requires_grad_()
        optimizer = made([{"params": [first]}, {"params": [second], "lr": 0.01}], **settings)
        for step in range(4):
            optimizer.zero_grad()
            ((first**2).sum() * (second**2).sum()).backward()
            optimizer.step()
            assert torch.is_grad_enabled() and first.requires_grad
            if step == 1:
                again = made([{"params": [first]}, {"params": [second]}], **settings)
                again.load_state_dict(optimizer.state_dict())
                optimizer = again
        weights.append((first, second))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))

"""Every method on every family of towers: it trains, or it is refused by name before any work."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.clip.catalog import check_towers
from core.clip.frozen import FrozenCLIP, TowerlessCLIP
from core.clip.tokenizer import HubTokenizer
from core.config import lookup, registered_classes
from core.train.checkpoints import learned_state
from core.types import Batch, ClassNames
from tests.helpers.hub_tokenizers import stand_in
from tests.helpers.open_clip_models import FAMILIES, family, register_families
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import PretendedCuda
from tests.helpers.tiny_clip import (
    CLASSES,
    OTHER_CLASSES,
    SETTINGS,
    make_method,
    make_model,
    tokenizer,
    training,
)

METHODS = [entry.name for entry in registered_classes("method")]
TRIED = ["tiny-resnet", "tiny-siglip", "tiny-eva02", "tiny-convnext"]
HUB = "nobody/tiny-siglip"


@pytest.fixture
def backbone(request, tmp_path, monkeypatch) -> FrozenCLIP:
    """A family by name; open_clip knows it by that name."""
    register_families(tmp_path / "configs", monkeypatch)
    stand_in(monkeypatch, HUB)
    model, name = family(request.param), request.param
    text = tokenizer(model.context_length)
    if name == "tiny-siglip":
        settings = FAMILIES[name]["text_cfg"]["tokenizer_kwargs"]
        text = HubTokenizer(
            HUB, model.context_length, vocab_size=400, settings=settings, way_out=""
        )
    with torch.no_grad():
        getattr(model, "text", model).token_embedding.weight *= 30
    return FrozenCLIP(model, text, name=name)


def batch_for(clip: FrozenCLIP) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(6, 3, *clip.spec.image_size, generator=generator)
    need = clip.spec.support.image_fields
    return Batch(labels=torch.arange(6) % 5, pixels=pixels, need=need, index=torch.arange(6))


def settings_of(name: str) -> dict[str, Any]:
    values = {key: parameter.default for key, parameter in lookup(name).parameters.items()}
    return values | SETTINGS.get(name, {})


def hooked(name: str) -> frozenset:
    return lookup(name).cls.hooked_towers(settings_of(name))


def scored(name: str) -> ClassNames:
    """Other classes, or the same where a method can score no others."""
    return CLASSES if lookup(name).cls.closed_set(settings_of(name)) else OTHER_CLASSES


@pytest.mark.parametrize("backbone", TRIED, indirect=True)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_on_a_family_or_is_refused_by_name(name, backbone):
    data = batch_for(backbone)
    if lacking := hooked(name) - backbone.spec.support.hooked:
        said = f"{name} works inside the .* tower: backbone '{backbone.name}' has no place"
        with pytest.raises(ValueError, match=said) as caught:
            check_towers(name, hooked(name), backbone.name)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=f"'{backbone.name}' has no place for prompts"):
            make_method(name, backbone)(data)
        assert lacking
        return
    check_towers(name, hooked(name), backbone.name)
    make_method(name, TowerlessCLIP(backbone)).set_classes(scored(name))
    model = make_model(make_method(name, backbone))
    before = {name: value.clone() for name, value in learned_state(model).items()}
    _, log = training(model, epochs=1, data=[data])
    values = [value for entry in log for value in entry.values()]  # empty where nothing trains
    assert all(math.isfinite(value) for value in values if isinstance(value, float))
    after = learned_state(model)
    changed = before.keys() != after.keys() or any(
        before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
        for name in before
    )
    assert not before or changed == model.method.trains
    model.method.set_classes(scored(name))
    out = model(data)
    assert out.logits().shape == (6, len(scored(name))) and out.logits().isfinite().all()
    model.method.set_classes(CLASSES)


@pytest.mark.parametrize("backbone", ["tiny-siglip"], indirect=True)
def test_on_a_gpu_prompts_of_a_tower_that_is_not_causal_add_up_in_order(backbone):
    """Whole prompts are put together there, and learned through."""
    data, trained = batch_for(backbone), set()
    for name in METHODS:
        if hooked(name) - backbone.spec.support.hooked:
            continue
        with PretendedCuda(ROOT) as gpu:
            clip = backbone.to("cuda")
            sent = {field: getattr(data, field).to("cuda") for field in ("labels", "pixels")}
            there = replace(data, **sent, index=data.index.to("cuda"))
            model = make_model(make_method(name, clip)).to("cuda")
            training(model, epochs=1, data=[there])
        lines = {text.partition(" at ")[2].partition(":")[0] for text in gpu.unordered}
        assert lines == ({"methods/nearest_class_mean.py"} if name == "NearestClassMean" else set())
        assert not gpu.one_by_one, name
        trained |= {name} if model.trainable() else set()
    assert trained >= {"CoOp", "CoCoOp", "KgCoOp", "ProGrad"}


@pytest.mark.parametrize("backbone", TRIED, indirect=True)
def test_text_refiner_works_where_there_are_local_tokens(backbone):
    method = make_method("CoOp", backbone)
    if "local" not in backbone.spec.support.image_fields:
        with pytest.raises(ValueError, match=r"needs the image fields \['attention', 'local'\]"):
            make_model(method, alignment="MlpAlignment")
        return
    model = make_model(method, alignment="MlpAlignment")
    data = batch_for(backbone)
    slots = model.refiner.memory().slots.clone()
    _, log = training(model, epochs=1, data=[data])
    assert {"ce", "semantic", "regularization"} <= set(log[0])
    assert all(math.isfinite(value) for value in log[0].values() if isinstance(value, float))
    assert not torch.equal(model.refiner.memory().slots, slots)

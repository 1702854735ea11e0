"""Every method on every family of towers: it trains, or it is refused by name before any work."""

import pytest
import torch

from core.clip.catalog import check_towers
from core.clip.frozen import FrozenCLIP, TowerlessCLIP
from core.clip.tokenizer import HubTokenizer
from core.config import lookup, registered_classes
from core.types import Batch
from tests.helpers.hub_tokenizers import stand_in
from tests.helpers.open_clip_models import FAMILIES, family, register_families
from tests.helpers.tiny_clip import (
    CLASSES,
    OTHER_CLASSES,
    SETTINGS,
    make_method,
    make_model,
    one_step,
    tokenizer,
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
        text = HubTokenizer(HUB, 12, vocab_size=60, settings=settings, way_out="")
    with torch.no_grad():
        getattr(model, "text", model).token_embedding.weight *= 30
    return FrozenCLIP(model, text, name=name)


def batch_for(clip: FrozenCLIP) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(6, 3, *clip.spec.image_size, generator=generator)
    need = clip.spec.support.image_fields
    return Batch(labels=torch.arange(6) % 5, pixels=pixels, need=need, index=torch.arange(6))


def hooked(name: str) -> frozenset:
    entry = lookup(name)
    values = {key: parameter.default for key, parameter in entry.parameters.items()}
    return entry.cls.hooked_towers(values | SETTINGS.get(name, {}))


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
    make_method(name, TowerlessCLIP(backbone)).set_classes(OTHER_CLASSES)
    model = make_model(make_method(name, backbone))
    model.method.begin_training([data], 1)
    before = [p.detach().clone() for p in model.trainable()]
    if before:
        losses = one_step(model, data)
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())
        changed = [not torch.equal(a, b) for a, b in zip(before, model.trainable(), strict=True)]
        assert any(changed)
    model.method.set_classes(OTHER_CLASSES)
    out = model(data)
    assert out.logits().shape == (6, len(OTHER_CLASSES)) and out.logits().isfinite().all()
    model.method.set_classes(CLASSES)


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
    losses = one_step(model, data)
    assert {"ce", "semantic", "regularization"} <= set(losses)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    assert not torch.equal(model.refiner.memory().slots, slots)

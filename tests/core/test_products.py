"""Products with frozen weights: both ways give the same numbers, and copies follow the weights."""

import copy
import gc
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip import measured, product_choice, products
from core.clip.backbone import load_clip
from core.clip.deep_prompts import TrailingPrompts
from core.clip.measured import measured_in

pytestmark = pytest.mark.skipif(not products.is_available(), reason="no oneDNN product")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def weight() -> Iterator[nn.Parameter]:
    weight = nn.Parameter(drawn(48, 32), requires_grad=False)
    products.multiply_by_onednn([weight])
    yield weight
    products.multiply_by_default([weight])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every product of oneDNN from now on."""
    seen: list[int] = []
    product = products._product

    def count(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(x.numel() // x.shape[-1])
        return product(x, matrix, bias)

    monkeypatch.setattr(products, "_product", count)
    return seen


@pytest.mark.parametrize("rows", [slice(None), slice(0, 16), slice(16, 48)])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (products.FEW_ROWS + 1,), (2, 3, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_the_default_product(
    weight: nn.Parameter, shape: tuple[int, ...], rows: slice, with_bias: bool
) -> None:
    x = drawn(*shape, 32, seed=1).requires_grad_()
    bias = drawn(48, seed=2) if with_bias else None
    expected = F.linear(x, weight[rows], None if bias is None else bias[rows])
    found = products.linear(x, weight, bias, rows)
    factor = drawn(*expected.shape, seed=3)
    (of_expected,) = torch.autograd.grad((expected * factor).sum(), x)
    (of_found,) = torch.autograd.grad((found * factor).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_found, of_expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(products.linear(x, weight, bias, rows), expected)


def test_second_derivatives_pass_through_a_product(weight: nn.Parameter) -> None:
    x = drawn(5, 32, seed=1).requires_grad_()

    def second(product: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(product.pow(3).sum(), x, create_graph=True)
        (found,) = torch.autograd.grad(first.pow(2).sum(), x)
        return found

    expected = second(F.linear(x, weight))
    torch.testing.assert_close(
        second(products.linear(x, weight, None)), expected, rtol=1e-4, atol=1
    )


def test_a_sum_whose_gradient_has_no_memory_of_its_own(weight: nn.Parameter) -> None:
    x = drawn(4, 32, seed=1).requires_grad_()
    products.linear(x, weight, None).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(dim=0).expand(4, -1), rtol=1e-5, atol=1e-5)


def test_a_product_does_not_depend_on_the_rows_beside_it(weight: nn.Parameter) -> None:
    """With and without a copy of the weight, beyond the few rows that have code of their own."""
    x = drawn(2 * products.FEW_ROWS, 32, seed=1)
    whole = products.linear(x, weight, None)
    for count in (16, 100, products.FEW_ROWS, products.FEW_ROWS + 1):
        assert torch.equal(products.linear(x[:count], weight, None), whole[:count])


def test_a_changed_weight_is_multiplied_as_it_is(weight: nn.Parameter) -> None:
    x = drawn(4, 32, seed=1).requires_grad_()

    def agrees() -> None:
        torch.testing.assert_close(products.linear(x, weight, None), F.linear(x, weight))

    agrees()
    assert products.bytes_of_copies([weight]) == weight.nbytes
    weight.mul_(2)
    agrees()
    weight.data = drawn(48, 32, seed=9)
    agrees()
    weight.data = weight.data.double()
    x = x.double()
    agrees()


def test_copies_are_kept_once_for_few_rows_with_gradient(weight: nn.Parameter) -> None:
    few, many = drawn(products.FEW_ROWS, 32), drawn(products.FEW_ROWS + 1, 32)
    products.linear(few, weight, None)
    products.linear(many.requires_grad_(), weight, None).sum().backward()
    assert products.bytes_of_copies([weight]) == 0
    for _ in range(2):
        products.linear(few.requires_grad_(), weight, None).sum().backward()
        assert products.bytes_of_copies([weight]) == 2 * weight.nbytes  # and transposed


def test_copies_are_freed_with_the_weight_and_saved_nowhere() -> None:
    layer = nn.Linear(32, 48).requires_grad_(False)
    before = len(products._CHOSEN)
    products.multiply_by_onednn([layer.weight])
    products.linear(drawn(4, 32).requires_grad_(), layer.weight, layer.bias)
    twin = copy.deepcopy(layer)
    assert not products.uses_onednn(twin.weight)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    torch.save(layer, io.BytesIO())
    assert len(products._CHOSEN) == before + 1
    del layer
    gc.collect()
    assert len(products._CHOSEN) == before


def test_only_plain_float32_products_of_frozen_weights_change(
    weight: nn.Parameter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    x = drawn(4, 32, seed=1)
    products.linear(x.bfloat16(), weight.bfloat16(), None)
    products.linear(x.double(), weight.double(), None)
    products.linear(x[:0], weight, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products.linear(x, weight, None).dtype == torch.bfloat16
    torch.func.vmap(lambda row: products.linear(row, weight, None))(x)
    torch.func.grad(lambda x: products.linear(x, weight, None).sum())(x)
    torch.func.jvp(lambda x: products.linear(x, weight, None), (x,), (x,))
    weight.requires_grad_()
    products.linear(x, weight, None).sum().backward()
    assert weight.grad is not None
    weight.requires_grad_(False)
    assert seen == []
    products.linear(x, weight, None)
    with torch.inference_mode():
        products.linear(x, weight, None)
    assert seen == [4, 4]


@pytest.fixture
def widths() -> list[int]:
    return [32, 48]


@pytest.mark.parametrize(
    ("ratio", "product"), [(1.2, "oneDNN"), (1.04, "default"), (0.0, "default")]
)
def test_a_decision_is_made_once_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widths: list[int], ratio: float, product: str
) -> None:
    ratios = [ratio, 3.0 - 2 * ratio]  # a second measurement would decide otherwise
    monkeypatch.setenv("REFINELAB_ONEDNN", "auto")
    monkeypatch.setattr(product_choice, "measure", lambda widths: ratios.pop(0))
    assert [product_choice.decide(widths, tmp_path) for _ in range(3)] == [product] * 3
    assert len(ratios) == 1
    monkeypatch.setattr(measured, "processor", lambda: "another one")
    product_choice.decide(widths, tmp_path)
    assert not ratios


def test_whoever_is_first_decides_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widths: list[int]
) -> None:
    monkeypatch.setenv("REFINELAB_ONEDNN", "auto")

    def overtaken(_: list[int]) -> float:
        monkeypatch.setattr(product_choice, "measure", lambda _: 1.0)
        assert product_choice.decide(widths, tmp_path) == "default"
        return 2.0

    monkeypatch.setattr(product_choice, "measure", overtaken)
    assert product_choice.decide(widths, tmp_path) == "default"


def test_a_damaged_decision_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widths: list[int]
) -> None:
    monkeypatch.setenv("REFINELAB_ONEDNN", "auto")
    monkeypatch.setattr(product_choice, "measure", lambda widths: 2.0)
    product_choice.decide(widths, tmp_path)
    (file,) = (tmp_path / measured.FOLDER).iterdir()
    for text in ("", "[]", '{"answer": "mkl"}', "\x00"):
        file.write_text(text)
        assert product_choice.decide(widths, tmp_path) == "oneDNN"


def test_what_cannot_be_kept_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widths: list[int]
) -> None:
    monkeypatch.setenv("REFINELAB_ONEDNN", "auto")
    monkeypatch.setattr(product_choice, "measure", lambda widths: 2.0)
    (tmp_path / "file").write_text("")
    assert product_choice.decide(widths, tmp_path / "file") == "default"


def test_the_switch_overrides_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widths: list[int]
) -> None:
    for word, product in (("on", "oneDNN"), (" OFF ", "default")):
        monkeypatch.setenv("REFINELAB_ONEDNN", word)
        assert product_choice.decide(widths, tmp_path) == product
    monkeypatch.setenv("REFINELAB_ONEDNN", "yes")
    with pytest.raises(ValueError, match="REFINELAB_ONEDNN must be auto, on or off, got 'yes'"):
        product_choice.decide(widths, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_measurement_compares_both_ways_and_refuses_wrong_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = torch.random.get_rng_state()
    with torch.no_grad():
        assert product_choice.measure([16, 32]) > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    product = products._product
    monkeypatch.setattr(products, "_product", lambda x, matrix, bias: product(x, matrix, bias) * 2)
    assert product_choice.measure([16, 32]) == 0.0


def test_towers_give_the_same_numbers_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load_clip("mosaic")
    images = drawn(3, 3, *clip.spec.image_size)
    prompt = drawn(2, clip.spec.vision_width, seed=1).mul_(0.02).requires_grad_()

    def both() -> tuple[Tensor, ...]:
        features = clip.encode_image(images, TrailingPrompts([prompt, prompt]))
        image = F.normalize(features.pooled, dim=-1)
        (gradient,) = torch.autograd.grad(image[:, 0].sum(), prompt)
        return image.detach(), gradient, clip.encode_texts(["a photo of a digger", "moon"])

    default = both()
    monkeypatch.setenv("REFINELAB_ONEDNN", "on")
    with measured_in(tmp_path):
        product_choice.choose(clip)
    assert product_choice.product_of(clip) == "oneDNN"
    seen = counted(monkeypatch)
    for found, expected in zip(both(), default, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    layers = clip.spec.vision_depth
    assert seen.count(3 * (1 + clip.spec.num_patches + 2)) >= 2 * 4 * (layers - 1)
    monkeypatch.setenv("REFINELAB_ONEDNN", "off")
    with measured_in(tmp_path):
        product_choice.choose(clip)
    assert product_choice.product_of(clip) == "default"
    assert all(map(torch.equal, both(), default))


def test_nothing_is_chosen_outside_a_run_or_for_other_precisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINELAB_ONEDNN", "on")
    clip = load_clip("mosaic")
    product_choice.choose(clip)
    assert product_choice.product_of(clip) == "default"
    with measured_in(tmp_path):
        product_choice.choose(clip.double())
    assert product_choice.product_of(clip) == "default"

"""The one rule for NaN and infinity."""

import math

import pytest
import torch

from core.finite import NotFiniteError, check_finite, check_real, not_finite

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_the_tensor_is_named(dtype, value, place):
    good = torch.linspace(-1, 1, 1000, dtype=dtype).reshape(10, 100)
    bad = good.clone()
    bad.view(-1)[place] = value
    assert not_finite({"a": good, "b": bad, "c": bad}) == "b"
    kind = "NaN" if math.isnan(value) else "an infinity"
    with pytest.raises(NotFiniteError, match=f"^it holds {kind} in the tensor 'b'; do that$"):
        check_finite({"a": good, "b": bad}, "it", "do that")


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_numbers_are_finite(dtype):
    largest = torch.finfo(dtype).max
    assert not_finite({"a": torch.tensor([largest, -largest], dtype=dtype)}) is None


def test_what_has_no_fraction_or_no_entry_is_finite():
    whole = {"i": torch.arange(3), "b": torch.tensor([True]), "e": torch.zeros(0)}
    assert not_finite(whole) is None and not_finite({}) is None
    assert not_finite({"scalar": torch.tensor(math.nan)}) == "scalar"


def test_weights_are_dense_real_numbers():
    good = {str(dtype): torch.ones(2, dtype=dtype) for dtype in FLOATS}
    check_real(good | {"count": torch.tensor(3)}, "it", whole={"count"})
    others = (torch.int64, torch.uint8, torch.bool, torch.complex128, torch.float8_e5m2)
    odd = {str(dtype).removeprefix("torch."): torch.ones(2).to(dtype) for dtype in others}
    odd |= {"sparse_coo": torch.eye(2).to_sparse(), "sparse_csr": torch.eye(2).to_sparse_csr()}
    for kind, tensor in odd.items():
        with pytest.raises(ValueError, match=f"^it holds {kind} in the tensor 'b'; weights are"):
            check_real(good | {"b": tensor}, "it")
    with pytest.raises(ValueError, match="holds complex128 in the tensor 'count'"):
        check_real({"count": odd["complex128"]}, "it", whole={"count"})

"""The one rule for NaN and infinity."""

import math

import pytest
import torch

from core.finite import NotFiniteError, check_finite, not_finite

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

"""How fast this machine multiplies matrices of the towers' shapes."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.run.published_flow.floor import StepSize

SECONDS = 0.15  # at least so long for every shape and way


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRates:
    """GFLOP per second of torch's linear layer, and of the best way that there is here, over the
    shapes of both towers; ``best_way`` names it.
    """

    linear: float
    best: float
    best_way: str


Product = Callable[[Tensor, Tensor], Callable[[], object]]


def _linear(x: Tensor, weight: Tensor) -> Callable[[], object]:
    return lambda: F.linear(x, weight)


def _packed(x: Tensor, weight: Tensor) -> Callable[[], object]:
    """The product of oneDNN with a weight that is packed beforehand."""
    ops = torch.ops.mkldnn
    packed = ops._reorder_linear_weight(weight, len(x))
    return lambda: ops._linear_pointwise(x, packed, None, "none", [], "")


WAYS: dict[str, Product] = {"F.linear": _linear, "packed oneDNN": _packed}


@torch.no_grad()
def matrix_rates(size: StepSize, clock: Callable[[], float]) -> MatrixRates:
    """Measure the products of a block of both towers, at the number of rows of a step."""
    images = size.batch_size * (1 + size.num_patches)
    texts = 17 + sum(size.suffixes)
    shapes = [
        (rows, tower.width, round(ratio * tower.width))
        for rows, tower in ((images, size.image), (texts, size.text))
        for ratio in (1, 3, tower.ratio)
    ]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for rows, width, out in shapes:
        x, weight = torch.randn(rows, width), torch.randn(out, width)
        for way, product in WAYS.items():
            try:
                call = product(x, weight)
                call()
            except (RuntimeError, AttributeError):  # not in this build of torch
                continue
            rates[way].append(2e-9 * rows * width * out / _seconds(call, clock))
    means = {way: statistics.fmean(found) for way, found in rates.items() if found}
    best = max(means, key=lambda way: means[way])
    return MatrixRates(linear=means["F.linear"], best=means[best], best_way=best)


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """The shortest time of a call, over several."""
    found: list[float] = []
    ends = clock() + SECONDS
    while len(found) < 3 or clock() < ends:
        started = clock()
        call()
        found.append(clock() - started)
    return min(found)

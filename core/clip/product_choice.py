"""Which matrix product the frozen weights of a backbone go through: measured once a machine.

oneDNN's product is up to twice as fast as the default one on some processors and slower on others
or for small towers, and its results differ by float32 rounding. So it is timed on the widths of
the backbone's towers, and what was decided is kept in the cache folder for every later process:
the runs of a study all use the same one. The environment variable ``REFINELAB_ONEDNN`` overrides
the measurement; it never enters a run's identity, and a run's record says what was used.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from core.clip import products
from core.clip.measured import cache_folder, decided_once
from core.machine import onednn_setting
from core.precision import HALF

Product = Literal["default", "oneDNN"]
PRODUCTS = ("default", "oneDNN")
MARGIN = 1.05
"""How many times as fast oneDNN must be to be used."""
ROWS = 128
ROUNDS = 7


def choose(clip: Any) -> None:
    """Decide on the product of a backbone's weights, inside ``measured_in`` only.

    Nothing is changed for weights that are not on the CPU, or are in float64: oneDNN's product does
    not apply to them. Of weights in half precision it is the product of what they were read from.
    """
    cache_dir = cache_folder()
    if cache_dir is None or not all(map(_fits, weights := block_weights(clip))):
        return
    widths = sorted({weight.shape[1] for weight in weights if len(weight) == 3 * weight.shape[1]})
    use(clip, decide(widths, cache_dir) if widths else "default")


def use(clip: Any, product: Product) -> None:
    """Multiply by a product wherever it applies."""
    if product == "oneDNN":
        products.multiply_by_onednn(block_weights(clip))
    else:
        products.multiply_by_default(block_weights(clip))


def product_of(clip: Any) -> Product:
    """What the weights of a backbone's blocks are multiplied by."""
    weights = block_weights(clip)
    return "oneDNN" if weights and all(map(products.uses_onednn, weights)) else "default"


def decide(widths: Sequence[int], cache_dir: Path) -> Product:
    """The product for towers of these widths: as the user says, as decided before on this machine,
    or as measured now.

    Where the decision cannot be kept, other processes could decide otherwise: the default product.
    """
    given = onednn_setting()
    if given == "off" or not products.is_available():
        return "default"
    if given == "on":
        return "oneDNN"
    facts = {"threads": torch.get_num_threads(), "widths": list(widths)}
    answer: Product | None = decided_once(
        cache_dir, "matrix product", facts, lambda: _measured(widths), PRODUCTS.__contains__
    )
    return answer or "default"


def _measured(widths: Sequence[int]) -> Mapping[str, Any]:
    ratio = measure(widths)
    answer = "oneDNN" if ratio >= MARGIN else "default"
    return {"onednn_is_faster_by": round(ratio, 3), "answer": answer}


def measure(widths: Sequence[int]) -> float:
    """How many times as fast as the default product oneDNN's is, forward and backward, by the best
    of several interleaved rounds. 0.0 where the two differ by more than rounding.
    """
    totals = {"default": 0.0, "oneDNN": 0.0}
    for width in widths:
        weight, x = _example(width)
        for name, seconds in _best_times(weight, x).items():
            totals[name] += seconds
        if not _agree(weight, x):
            return 0.0
    return totals["default"] / totals["oneDNN"]


def _example(width: int) -> tuple[Tensor, Tensor]:
    """A weight (4W, W) and rows (R, W), drawn without touching the global generator."""
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(4 * width, width, generator=drawn)
    return weight, torch.randn(ROWS, width, generator=drawn).requires_grad_()


def _best_times(weight: Tensor, x: Tensor) -> dict[str, float]:
    """Seconds of a product with gradient, the shortest of each way."""
    chosen = weight.clone()
    products.multiply_by_onednn([chosen])
    best = {"default": float("inf"), "oneDNN": float("inf")}
    for _ in range(ROUNDS):
        for name, matrix in zip(best, (weight, chosen), strict=True):
            started = time.perf_counter()
            _product_with_gradient(matrix, x)
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def _product_with_gradient(weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        product = products.linear(x, weight, None)
        (gradient,) = torch.autograd.grad(product, x, torch.ones_like(product))
    return product, gradient


def _agree(weight: Tensor, x: Tensor) -> bool:
    """Whether both ways give the same numbers but for rounding."""
    chosen = weight.clone()
    products.multiply_by_onednn([chosen])
    ours, theirs = _product_with_gradient(chosen, x), _product_with_gradient(weight, x)
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(ours, theirs, strict=True)
    )


def block_weights(clip: Any) -> list[Tensor]:
    """The matrices of the blocks of both towers that are native transformers."""
    towers = [getattr(tower, "transformer", None) for tower in (clip.visual, clip.text)]
    return [
        weight
        for tower in towers
        for block in getattr(tower, "resblocks", ())
        for weight in (
            block.attn.in_proj_weight,
            block.attn.out_proj.weight,
            block.mlp.c_fc.weight,
            block.mlp.c_proj.weight,
        )
    ]


def _fits(weight: Tensor) -> bool:
    single = weight.dtype in (torch.float32, *HALF)
    return weight.device.type == "cpu" and single and not weight.is_inference()

"""The one door for matrix products with the frozen weights of a tower's blocks.

Two ways: PyTorch's default product, and that of oneDNN, which is faster on many processors and
equal but for float32 rounding (``core/clip/product_choice.py`` measures which one to use). Frozen
weights need no gradient, so the backward pass is one more product of the same kind.

oneDNN reorders a weight into blocks before it multiplies. For many rows that costs little beside
the product; for few, where a gradient flows and the product will be needed in every step, a
reordered copy is kept, made when it is first needed and freed with the weight. A copy is never part
of a state dict, and a weight that has changed gets a new one.

Letters: R rows, W width of the input, V width of the output.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

ALL_ROWS = slice(None)
FEW_ROWS = 256
"""Up to this many rows of an input with gradient, a reordered copy of the weight is kept."""
ROWS_AT_ONCE = 1024
"""So many rows pass through an MLP at once where nothing is kept of them."""
QUICK = 1.702  # quick-GELU is x * sigmoid(1.702 x)

Stamp = tuple[int, int, torch.dtype, torch.device]


class MatrixPart(NamedTuple):
    """Which rows of a weight (V, W) are multiplied, and whether as they are or transposed."""

    start: int | None
    stop: int | None
    transposed: bool = False

    def of(self, weight: Tensor) -> Tensor:
        """The part (V, W), or (W, V) if transposed; a view."""
        rows = weight.detach()[self.start : self.stop]
        return rows.t() if self.transposed else rows

    def turned(self) -> "MatrixPart":
        """The same rows for the backward pass of this product."""
        return self._replace(transposed=not self.transposed)


WHOLE = MatrixPart(None, None)


class _Copies:
    """The reordered copies of one weight, as it was when the first of them was made."""

    def __init__(self) -> None:
        self.stamp: Stamp | None = None
        self.by_part: dict[MatrixPart, Tensor] = {}

    def of(self, weight: Tensor, part: MatrixPart) -> Tensor:
        stamp = (weight.data_ptr(), weight._version, weight.dtype, weight.device)
        if stamp != self.stamp:
            self.stamp, self.by_part = stamp, {}
        if part not in self.by_part:
            with torch.inference_mode(False):
                dense = part.of(weight).contiguous()
                self.by_part[part] = torch.ops.mkldnn._reorder_linear_weight(dense)
        return self.by_part[part]


_CHOSEN: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weight -> _Copies


def is_available() -> bool:
    """Whether this build of PyTorch has oneDNN's product at all."""
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in names
    )


def multiply_by_onednn(weights: Iterable[Tensor]) -> None:
    """Use oneDNN for these weights from now on, wherever it applies."""
    for weight in weights:
        if weight not in _CHOSEN:
            _CHOSEN[weight] = _Copies()


def multiply_by_default(weights: Iterable[Tensor]) -> None:
    """Use PyTorch's own product for these weights from now on, and free their copies."""
    for weight in weights:
        _CHOSEN.pop(weight, None)


def uses_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies with this weight, wherever it applies."""
    return weight in _CHOSEN


def bytes_of_copies(weights: Iterable[Tensor]) -> int:
    """How much memory the reordered copies of these weights take now."""
    found = [_CHOSEN[weight].by_part for weight in weights if weight in _CHOSEN]
    return sum(copy.numel() * copy.element_size() for parts in found for copy in parts.values())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice = ALL_ROWS) -> Tensor:
    """``x weight' + bias``: (..., V) for x (..., W), with these ``rows`` of the weight (V, W)."""
    start, stop, _ = rows.indices(len(weight))
    whole = stop - start == len(weight)
    own = bias if bias is None or whole else bias[rows]
    if not _applies(x, weight, bias):
        return F.linear(x, weight if whole else weight[rows], own)
    part = WHOLE if whole else MatrixPart(start, stop)
    if x.requires_grad and torch.is_grad_enabled():
        return _with_gradient(_Product, x, weight, own, part)
    return _product(x, part.of(weight), own)


def feed_forward(mlp: Any, x: Tensor) -> Tensor:
    """A block's MLP: ``c_fc``, ``gelu``, ``c_proj``.

    Without a gradient many rows are computed part by part on a CPU, since what is between its two
    products is several times as wide: that costs no time, and memory for one part alone.
    """
    rows = x.numel() // max(x.shape[-1], 1)
    with_gradient = x.requires_grad and torch.is_grad_enabled()
    if with_gradient or x.device.type != "cpu" or rows <= ROWS_AT_ONCE:
        return _feed_forward(mlp, x)
    parts = x.flatten(0, -2).split(ROWS_AT_ONCE)
    return torch.cat([_feed_forward(mlp, part) for part in parts]).reshape(x.shape)


def _feed_forward(mlp: Any, x: Tensor) -> Tensor:
    first, last = mlp.c_fc, mlp.c_proj
    # Recognized by name, because only ``backbone.py`` imports open_clip's models.
    quick = type(mlp.gelu).__name__ == "QuickGELU"
    if not quick or not _applies(x, first.weight, first.bias):
        inner = linear(x, first.weight, first.bias)
        hidden = _quick_gelu(inner) if quick and _is_whole(inner) else mlp.gelu(inner)
    elif x.requires_grad and torch.is_grad_enabled():
        hidden = _with_gradient(_QuickGELUProduct, x, first.weight, first.bias)
    else:
        hidden = _quick_gelu(_product(x, first.weight, first.bias))
    return linear(hidden, last.weight, last.bias)


def _is_whole(inner: Tensor) -> bool:
    """Whether a product is of full precision, and nothing else reads it."""
    return type(inner) is Tensor and inner.dtype in (torch.float32, torch.float64)


def _quick_gelu(inner: Tensor) -> Tensor:
    """silu(1.702 x) / 1.702 of a product x, in its place: one tensor is kept for the backward pass
    where ``x * sigmoid(1.702 x)`` keeps two.
    """
    scaled = inner.mul_(QUICK)
    if scaled.requires_grad and torch.is_grad_enabled():
        return F.silu(scaled).mul_(1 / QUICK)
    return F.silu(scaled, inplace=True).mul_(1 / QUICK)


def _applies(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN was chosen for a weight and can multiply it with x: plain float32 on the CPU,
    frozen, and nobody watches or transforms the operators.
    """
    return (
        weight in _CHOSEN
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() > 0
        and not weight.requires_grad
        and (bias is None or not bias.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch.autograd.forward_ad._current_level < 0
    )


def _product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
    return product


def _matrix(x: Tensor, weight: Tensor, part: MatrixPart) -> Tensor:
    """What x of a training step is multiplied by: a view of the weight, or a reordered copy."""
    few = x.numel() <= FEW_ROWS * x.shape[-1]
    return _CHOSEN[weight].of(weight, part) if few and weight in _CHOSEN else part.of(weight)


def _with_gradient(function: Any, *arguments: Any) -> Tensor:
    """An autograd function, whose ``apply`` has no types."""
    product: Tensor = function.apply(*arguments)
    return product


class _Product(torch.autograd.Function):
    """The product with a part of a frozen weight; only the input has a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, part: MatrixPart
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.part = part
        return _product(x, _matrix(x, weight, part), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        (grad,), part = grads, ctx.part.turned()
        if grad.requires_grad and torch.is_grad_enabled():
            return _with_gradient(_Product, grad, weight, None, part), None, None, None
        return _product(grad, _matrix(grad, weight, part), None), None, None, None


class _QuickGELUProduct(torch.autograd.Function):
    """quick-GELU of a product: with u = 1.702 (x w' + b), silu(u) / 1.702 and its derivative
    silu'(u), each in one pass; only u is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        scaled = _product(x, _matrix(x, weight, WHOLE), bias).mul_(QUICK)
        ctx.save_for_backward(scaled, weight)
        return F.silu(scaled).mul_(1 / QUICK)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled, weight = ctx.saved_tensors
        inner = torch.ops.aten.silu_backward(grads[0], scaled)
        return _product(inner, _matrix(inner, weight, WHOLE.turned()), None), None, None

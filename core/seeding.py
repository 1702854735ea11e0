"""Independent random streams.

Every consumer of randomness requests a generator by its purpose. The seed is a hash of the run's
seed and that purpose, so adding, removing or reordering one consumer never affects another.

The ``seeded_`` functions create layers whose initial values come from such a generator, with the
distributions of torch's defaults.
"""

import math

import torch
from torch import nn

from core.derived_seeds import derive_seed


class Seeds:
    """The random streams of one run: ``Seeds(7).generator("context")`` is always the same."""

    def __init__(self, seed: int, *scope: str | int) -> None:
        self.seed = seed
        self.scope = scope

    def at(self, *purpose: str | int) -> "Seeds":
        """The streams below one purpose, to pass to a part."""
        return Seeds(self.seed, *self.scope, *purpose)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A fresh CPU generator for one purpose."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *self.scope, *purpose))


def seeded_linear(
    in_features: int, out_features: int, generator: torch.Generator, *, bias: bool = True
) -> nn.Linear:
    """A linear layer with torch's default initialization: uniform in +-1 / sqrt(in_features)."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    bound = 1 / math.sqrt(in_features)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias:
            layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def seeded_normal(*shape: int, std: float, generator: torch.Generator) -> nn.Parameter:
    """A parameter drawn from N(0, std squared)."""
    return nn.Parameter(torch.randn(*shape, generator=generator) * std)


@torch.no_grad()
def seeded_attention(
    width: int, num_heads: int, generator: torch.Generator
) -> nn.MultiheadAttention:
    """Attention with torch's default initialization: Xavier in, uniform out."""
    layer = nn.MultiheadAttention(width, num_heads)
    nn.init.xavier_uniform_(layer.in_proj_weight, generator=generator)
    bound = 1 / math.sqrt(width)
    layer.out_proj.weight.uniform_(-bound, bound, generator=generator)
    return layer

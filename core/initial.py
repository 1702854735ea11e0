"""Layers whose first values come from a generator of their own, drawn as torch's defaults are."""

import math

import torch
from torch import nn


def seeded_linear(
    in_features: int, out_features: int, generator: torch.Generator, *, bias: bool = True
) -> nn.Linear:
    """A linear layer with torch's default start: uniform in +-1 / sqrt(in_features)."""
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
    """Attention with torch's default start: Xavier in-projection, uniform out-projection."""
    layer = nn.MultiheadAttention(width, num_heads)
    nn.init.xavier_uniform_(layer.in_proj_weight, generator=generator)
    bound = 1 / math.sqrt(width)
    layer.out_proj.weight.uniform_(-bound, bound, generator=generator)
    return layer

"""Token hooks: how deep prompts enter a frozen tower without a forked backbone.

A hook is pure in (layer, tokens): it returns the tokens that continue. Letters: B sequences, L
tokens, W tower width.
"""

from typing import Protocol

from torch import Tensor


class TokenHook(Protocol):
    """Changes the token sequence on its way through a tower."""

    def enter(self, x_BLW: Tensor) -> Tensor:
        """Called once, after position embeddings and before the first norm; may append tokens."""
        ...

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        """Called before block ``layer``, counted from 0; may replace tokens, never change L."""
        ...


class NoHook:
    """Leaves every token as it is."""

    def enter(self, x_BLW: Tensor) -> Tensor:
        return x_BLW

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        return x_BLW


NO_HOOK = NoHook()

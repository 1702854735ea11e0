"""Seeds that do not disturb each other.

Every consumer of randomness asks for a generator by its purpose. The seed is a hash of the run's
seed and that purpose, so adding, removing or reordering one consumer never moves another.
"""

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from a run's seed and the words of a purpose; the same on every machine."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Seeds:
    """The random streams of one run: ``Seeds(7).generator("context")`` is always the same."""

    def __init__(self, seed: int, *scope: str | int) -> None:
        self.seed = seed
        self.scope = scope

    def at(self, *purpose: str | int) -> "Seeds":
        """The streams below one purpose, to hand to a part."""
        return Seeds(self.seed, *self.scope, *purpose)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A fresh CPU generator for one purpose."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *self.scope, *purpose))

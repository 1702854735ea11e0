"""The images and captions of each pre-training step."""

import numpy as np
from numpy.typing import NDArray

from core.derived_seeds import derive_seed
from core.mosaic.corpus import CAPTIONS, Corpus
from core.mosaic.world import FAMILIES


class BatchSampler:
    """Chooses the images and captions of a step.

    A quarter of the batches mixes all families; a third holds two families; the rest two families
    in which the most visible attribute takes only three values, so that color does not distinguish
    the captions and shape, texture and parts must be learned. The validation images are the first
    of the corpus and are never sampled.
    """

    def __init__(self, corpus: Corpus, *, seed: int, batch_size: int, first: int) -> None:
        self.seed, self.batch_size = seed, batch_size
        family, bucket = corpus.family[first:], corpus.bucket[first:]
        self._all = np.arange(first, len(corpus.family))
        self._family = [first + np.flatnonzero(family == k) for k in range(len(FAMILIES))]
        self._buckets = [
            [
                first + np.flatnonzero((family == k) & (bucket == b))
                for b in np.unique(bucket[family == k])
            ]
            for k in range(len(FAMILIES))
        ]

    def __call__(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Image indices and caption columns of one step, ``(batch_size,)`` each."""
        rng = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "mosaic batch", step)))
        kind = float(rng.random())
        if kind < 0.25:
            return self._draw(rng, [self._all]), rng.integers(0, CAPTIONS, self.batch_size)
        chosen = [self._weighted_family(rng), self._weighted_family(rng)]
        if kind < 0.6:
            pools = [self._family[k] for k in chosen]
            return self._draw(rng, pools), rng.integers(0, CAPTIONS, self.batch_size)
        pools = [self._three_buckets(rng, k) for k in chosen]
        columns = rng.integers(0, CAPTIONS // 2, self.batch_size)
        sparse = rng.random(self.batch_size) < 0.25
        return self._draw(rng, pools), columns + sparse * (CAPTIONS // 2)

    def _weighted_family(self, rng: np.random.Generator) -> int:
        """A family by its share of the corpus."""
        index = int(rng.integers(len(self._all)))
        edges = np.cumsum([len(members) for members in self._family])
        return int(np.searchsorted(edges, index, side="right"))

    def _three_buckets(self, rng: np.random.Generator, family: int) -> NDArray[np.int64]:
        buckets = self._buckets[family]
        order = np.argsort(rng.random(len(buckets)), kind="stable")[:3]
        return np.concatenate([buckets[int(k)] for k in order])

    def _draw(self, rng: np.random.Generator, pools: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """An equal share from each pool."""
        share = -(-self.batch_size // len(pools))
        drawn = [pool[rng.integers(0, len(pool), share)] for pool in pools]
        return np.concatenate(drawn)[: self.batch_size]

"""Two-level paired resampling: datasets, then seeds within them, with the same draws for all.

It describes how stable an order is. Over a few datasets or seeds a bootstrap interval covers less
than it claims (.5 to .9 at 2 to 5 of them), so none is made from these draws.
"""

from dataclasses import dataclass

import numpy as np

from analysis.stats.intervals import Array

CHUNK = 500
MAX_SCORES = 2**24
"""Resampled scores that are held at a time: 128 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """Uniform draws that pick datasets and seeds, made once so that every variant is resampled
    alike.

    ``dataset_RD`` picks the dataset of a slot, ``seed_RDS`` the seeds inside that slot.
    """

    dataset_RD: Array
    seed_RDS: Array

    @classmethod
    def draw(
        cls,
        num_datasets: int,
        num_seeds: int,
        *,
        reps: int,
        rng: np.random.Generator,
        shared_seeds: bool = False,
    ) -> "Resamples":
        """Draw from ``rng``. ``shared_seeds``: one trained model was scored on all datasets, so a
        seed moves as one.
        """
        dataset = rng.random((reps, num_datasets))
        shape = (reps, 1 if shared_seeds else num_datasets, num_seeds)
        seeds = np.broadcast_to(rng.random(shape), (reps, num_datasets, num_seeds))
        return cls(dataset_RD=dataset, seed_RDS=seeds)

    def tables(self, scores_VDS: Array, rows: slice) -> tuple[Array, Array]:
        """Resampled tables of a complete table: two-level (datasets like these) and seeds-only
        (these datasets), each of shape (r, V, D, S) for the repetitions in ``rows``.
        """
        _, num, width = scores_VDS.shape
        fixed = np.arange(num)[None, :, None]
        uniform = self.dataset_RD[rows, :num]
        picked = np.minimum((uniform * num).astype(np.intp), num - 1)[:, :, None]
        seeds = (self.seed_RDS[rows, :num, :width] * width).astype(np.intp)
        seeds = np.minimum(seeds, width - 1)
        both = [np.moveaxis(scores_VDS[:, d, seeds], 0, 1) for d in (picked, fixed)]
        return both[0], both[1]

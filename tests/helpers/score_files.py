"""CSV files of scores of any size: variants x datasets x seeds."""

import numpy as np


def write_scores(path, variants, datasets, seeds, *, spread=0.02):
    """A tidy CSV of accuracies; variant 0 is the baseline and the others are in no order."""
    rng = np.random.default_rng(variants)
    gain = np.concatenate([[0.0], rng.permutation(np.linspace(-0.01, 0.03, variants - 1))])
    level = rng.uniform(0.4, 0.9, datasets)
    own = rng.normal(0, spread / 4, (variants, datasets))
    means = np.clip(level + gain[:, None] + own, 0.05, 0.95)
    scores = means[:, :, None] + rng.normal(0, spread / 4, (variants, datasets, seeds))
    lines = [
        f"variant_{v:02d},dataset_{d:03d},{s + 1},{scores[v, d, s]:.4f}"
        for v, d, s in np.ndindex(scores.shape)
    ]
    path.write_text("\n".join(["variant,dataset,seed,accuracy", *lines]) + "\n")
    return path

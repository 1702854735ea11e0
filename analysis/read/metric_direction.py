"""Is higher better? What the name of a metric tells, and when it has to be asked for."""

import re
from collections.abc import Iterable, Sequence

from core.suggestions import closest

COSTS = frozenset((
    "time", "times", "second", "seconds", "sec", "secs", "ms", "minutes", "hours", "runtime",
    "latency", "duration", "params", "parameters", "flops", "gflops", "macs", "gmacs", "memory",
    "mem", "mb", "gb", "vram", "cost", "costs", "price", "energy", "throughput", "fps",
))  # fmt: skip
"""Words of names that are what a run takes, not how well it does."""
SPREADS = frozenset((
    "std", "sd", "stdev", "stddev", "stderr", "sem", "deviation", "variance", "ci", "ci95",
))  # fmt: skip
"""Words of names that are how far scores are apart."""
LOWER = frozenset((
    "err", "error", "errors", "loss", "losses", "nll", "ece", "mce", "ace", "sce", "tce",
    "brier", "rank", "ranks", "fpr", "fnr", "fdr", "fpr95", "eer", "wer", "cer", "perplexity",
    "ppl", "distance", "dist", "rmse", "mse", "mae", "mape", "msle", "lpips", "fid", "kid",
    "regret", "risk", "entropy", "crossentropy", "xent", "bce", "ce", "divergence", "kl", "kld",
    "miscalibration", "misclassification", "forgetting", "mistakes", "misses", "failures",
    "violations", "gap", "drop", "crps", "hd95", "hausdorff", "mpjpe", "epe", "aurc",
))  # fmt: skip
"""Words of names of which lower is usually better: usually is not enough to judge by."""
ENDINGS = ("err", "error", "errors", "loss", "losses", "time", "latency", "perplexity", "distance")
SCORES = frozenset((
    "acc", "accuracy", "accuracies", "top1", "top5", "f1", "fscore", "precision", "recall",
    "sensitivity", "specificity", "auc", "auroc", "auprc", "ap", "map", "iou", "miou", "dice",
    "kappa", "mcc", "score", "scores", "value", "values", "base", "new", "novel", "hm", "pck",
    "bleu", "rouge", "em", "accuracy1", "metric", "result", "results", "ca", "prec",
))  # fmt: skip
"""Words of names of scores."""


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: ``valLoss``, ``val_loss`` and ``val loss`` are alike."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[^\W_]+", apart.casefold())


def is_beside(name: str) -> bool:
    """Whether a column is a cost (time, memory, parameters) or a spread by its name: it accompanies
    scores and is none.
    """
    return not (COSTS | SPREADS).isdisjoint(words_of(name))


def is_doubtful(name: str) -> bool:
    """Whether the name of a metric suggests that lower is better."""
    words = words_of(name)
    found = any(w in LOWER or w.rstrip("0123456789") in LOWER for w in words)
    return is_beside(name) or found or any(w.endswith(ENDINGS) for w in words)


def is_score(name: str) -> bool:
    """Whether a column is a metric by its name, whatever else it could be."""
    words = words_of(name)
    known = any(w in SCORES or w.rstrip("0123456789") in SCORES for w in words)
    return known or is_doubtful(name)


def chosen(
    option: str, names: Iterable[str], known: Sequence[str], *, lenient: bool = False
) -> tuple[str, ...]:
    """The known metrics that a person names, whatever the letter case.

    Raises ValueError for a name that is not known; ``lenient`` passes over it.
    """
    by_case = {name.casefold(): name for name in reversed(known)}
    found: list[str] = []
    for name in names:
        match = name if name in known else by_case.get(name.casefold())
        if match is None and lenient:
            continue
        if match is None:
            near = closest(name, known)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(
                f"{option} must name a metric, got {name!r}; known: {', '.join(known)}{hint}"
            )
        found.append(match)
    return tuple(dict.fromkeys(found))

"""Losses that several methods share."""

from typing import Literal

from torch import Tensor

from core.interfaces import Criterion
from core.types import Forward

KlReduction = Literal["mean", "batchmean"]
TextDistance = Literal["cosine", "squared"]


def cross_entropy(out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
    """The method's criterion on the logits of the whole image."""
    return criterion(out.logits(), targets)


def kl_divergence(log_p_RC: Tensor, log_q_RC: Tensor, *, reduction: KlReduction) -> Tensor:
    """KL(p || q) of rows of log-probabilities: the mean over rows ("batchmean") or over all R * C
    entries ("mean"), which is C times smaller.
    """
    entries = log_p_RC.exp() * (log_p_RC - log_q_RC)
    return entries.mean() if reduction == "mean" else entries.sum(dim=-1).mean()


def text_distance(text_CD: Tensor, fixed_CD: Tensor, distance: TextDistance) -> Tensor:
    """How far unit class texts are from fixed ones, mean over classes: 1 - cosine, or the squared
    Euclidean distance, which is twice that.
    """
    if distance == "squared":
        return (text_CD - fixed_CD).square().sum(dim=-1).mean()
    return 1 - (text_CD * fixed_CD).sum(dim=-1).mean()

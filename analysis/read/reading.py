"""What a person says about the tables to read."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read the scores of a table.

    ``scale`` is "percent", "fraction", "auto", or several with "METRIC=percent" among them;
    ``metrics`` are the columns to read as metrics, none for all that measure; ``lower`` and
    ``higher`` say the direction of metrics whose names leave it open. ``allow_mixed`` lets runs of
    different code versions stand together. ``one_of_several``: a metric that is named here may be
    another table's.
    """

    scale: str | Sequence[str] = "auto"
    metrics: Sequence[str] = ()
    lower: Sequence[str] = ()
    higher: Sequence[str] = ()
    allow_mixed: bool = False
    one_of_several: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """Every metric that is named."""
        return (*self.metrics, *self.lower, *self.higher)

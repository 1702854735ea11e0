"""A figure: an info record with what it shows, and a function that draws it in a style.

Each file of this folder defines the info records of one topic and a function that makes the figure
from them; the sections fill the records. What report.json says about a figure follows from its
record alone.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from analysis.figures.colors import Style
from analysis.stats import Interval
from analysis.text import rounded, rounded_ends, rounded_p


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of the report. ``info`` is what it shows; ``draw`` makes it in a style.

    ``name`` is the stem of its files. ``panels`` are the same numbers as separate small figures for
    narrow screens; a figure without panels is shown whole, and so are, where there is room, panels
    that have ``shared_rows``. The numbers of an ``exact`` figure are written to files without
    rounding.
    """

    name: str
    title: str
    caption: str
    info: Any
    draw: Callable[[Style], Any]
    panels: tuple["Figure", ...] = ()
    exact: bool = False
    shared_rows: bool = False

    @property
    def values(self) -> Any:
        """What the figure shows, as JSON values, see ``values_of``."""
        return values_of(self.info, exact=self.exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """A number with its 95 % interval for these datasets, None where it has none."""

    value: float
    on_these_datasets: Interval | None = None


def values_of(info: Any, *, exact: bool = False) -> Any:
    """An info record as JSON values: fractions rounded as files store them unless ``exact``, None
    for NaN.

    A dataclass becomes an object of its fields: a field named ``p`` or ``..._p`` holds a p value, a
    mapping whose metadata say ``inline`` joins the object, and ``in_files=False`` leaves a field
    out.
    """
    if info is None or isinstance(info, str | bool | int):
        return info
    if isinstance(info, float):
        return (info if exact else rounded(info)) if math.isfinite(info) else None
    if isinstance(info, Interval):
        return rounded_ends(info)
    if isinstance(info, np.ndarray):
        return values_of(info.tolist(), exact=exact)
    if isinstance(info, Mapping):
        return {str(key): values_of(value, exact=exact) for key, value in info.items()}
    if is_dataclass(info):
        return _object(info, exact)
    return [values_of(entry, exact=exact) for entry in info]


def _object(info: Any, exact: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fields(info):
        value, name = getattr(info, each.name), each.name
        if not each.metadata.get("in_files", True):
            continue
        if each.metadata.get("inline"):
            found |= values_of(value, exact=exact)
        elif name == "p" or name.endswith("_p"):
            found[name] = rounded_p(value)
        else:
            found[name] = values_of(value, exact=exact)
    return found

"""How a report writes numbers and names: points, p values, intervals, counts and metrics."""

from analysis.stats import Interval

HM_OF_MEANS = "hm_of_means"
"""Not a metric of a run: the harmonic mean of the two averages, as the field prints it. It has no
per-dataset value, so it gets intervals but no test over datasets.
"""

DECIMALS = 6
LABELS = {"base": "Base", "new": "New", "hm": "HM", HM_OF_MEANS: "HM of means", "all": "accuracy"}


def label(metric: str) -> str:
    """Printed name of a metric."""
    return LABELS.get(metric, metric)


def phrase(metric: str) -> str:
    """A metric behind the word points: "of HM", "at 16 shots"."""
    return f"{'at' if metric.endswith((' shot', ' shots')) else 'of'} {label(metric)}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 dataset", "2 datasets"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def points(value: float | None, *, sign: bool = False) -> str:
    """A fraction in percent or percentage points with two decimals; "-" for None, never "-0.00"."""
    if value is None:
        return "-"
    rounded = round(100 * value, 2) + 0.0
    return f"{rounded:+.2f}" if sign and rounded else f"{rounded:.2f}"


def interval_text(interval: Interval | None) -> str:
    """An interval in points, "-" for None."""
    if interval is None:
        return "-"
    return f"[{points(interval.low, sign=True)}, {points(interval.high, sign=True)}]"


def p_text(p: float | None) -> str:
    """A p value with three significant decimals, "n/a" where there is no test."""
    if p is None:
        return "n/a"
    return "<0.001" if p < 0.001 else f"{min(p, 1.0):.3f}"


def rounded(value: float | None) -> float | None:
    """A number as files store it."""
    return None if value is None else round(value, DECIMALS) + 0.0


def rounded_p(p: float | None) -> float | None:
    """A p value or a variance as files store it: six significant digits."""
    return None if p is None else float(f"{p:.6g}")


def rounded_ends(interval: Interval | None) -> list[float | None] | None:
    """Both ends of an interval as files store them."""
    return None if interval is None else [rounded(interval.low), rounded(interval.high)]

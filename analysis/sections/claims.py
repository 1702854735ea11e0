"""How a pair of verdicts is shown: the same words, marks and columns wherever a pair stands."""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from analysis.stats import Claim, Judgment, ShownIn
from analysis.text import Column, Columns, Kind, Show, Tally, interval_text, p_equals

THESE, LIKE = "these datasets", "datasets like these"
NOT_COMPARED = Claim(word="not compared")
NOT_TESTED = Claim(word="no test")
UNKNOWN = Judgment(these=NOT_COMPARED, like=NOT_COMPARED)

HELP = {
    THESE: (
        "about the datasets of this study: the seeds are the sample (stratified t of the mean over "
        "datasets)"
    ),
    LIKE: "about other datasets like these: the datasets are the sample (t over dataset means)",
}


def certainty(claim: Claim) -> str:
    """Interval and adjusted p of a claim in brackets: "[+1.23, +1.73], p < 0.001"."""
    seen = [interval_text(claim.interval)] if claim.interval else []
    seen += [f"p {p_equals(claim.holm_p)}"] if claim.holm_p is not None else []
    return ", ".join(seen)


def tally(shown: ShownIn) -> Tally:
    """k-hat with the names of the datasets."""
    return Tally(shown.k_hat, shown.num_datasets, shown.named)


Row = TypeVar("Row")


def claim_columns(
    of: Callable[[Row], Judgment | None],
    *,
    read: Show = Show.READ,
    details: Show = Show.FILES,
) -> Columns[Row]:
    """Verdict, interval and p values of both scopes. ``read``: where the verdict, the interval and
    the adjusted p are shown to people; ``details``: where the other p values are.
    """
    return tuple(
        column
        for key, scope in (("these", THESE), ("like", LIKE))
        for column in _scope_columns(key, scope, of, read | Show.FILES, details | Show.FILES)
    )


def _field(of: Callable[[Row], Judgment | None], key: str, name: str) -> Callable[[Row], Any]:
    """The part of a claim that a column shows; nothing without a judgment."""
    found = attrgetter(f"{key}.{name}")

    def value(row: Row) -> Any:
        judgment = of(row)
        return None if judgment is None else found(judgment)

    return value


def _scope_columns(
    key: str, scope: str, of: Callable[[Row], Judgment | None], read: Show, details: Show
) -> Columns[Row]:
    field = partial(_field, of, key)
    words = f"{HELP[scope]}: better, worse, equivalent, undecided, no test or not compared"
    return (
        Column(f"{key}_verdict", "Verdict", Kind.VERDICT, field("word"), read, scope, help=words),
        Column(
            f"{key}_interval",
            "95 %",
            Kind.INTERVAL,
            field("interval"),
            read,
            scope,
            help="95 % t interval of the mean difference",
        ),
        Column(f"{key}_p", "p", Kind.P, field("p"), details, scope, help="not adjusted"),
        Column(
            f"{key}_holm_p",
            "p Holm",
            Kind.P,
            field("holm_p"),
            read,
            scope,
            help="adjusted for the number of comparisons with the same reference (Holm)",
        ),
        Column(
            f"{key}_equivalence_p",
            "p equivalent",
            Kind.P,
            field("equivalence_p"),
            details,
            scope,
            help="two one-sided tests, adjusted by Holm",
        ),
    )

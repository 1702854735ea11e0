"""What the further tests have in common: their variants, and the limits of their claims.

The mixed model, Conover's test, rank stability, trends over shots and overlapping resamples
accompany the verdicts, on the headline's metric; no verdict rests on them.
"""

from collections.abc import Sequence

import numpy as np

from analysis.sections.analysis import Analysis, once
from analysis.sections.pairwise import LEFT_OUT_COLUMNS, paired
from analysis.sections.section import Section, Topic, make_sentence
from analysis.text import label, table

MAX_NAMED = 10


def scored(analysis: Analysis) -> tuple[str, ...]:
    """The variants that may be ranked together and have a score."""
    lacking = dict(unscored(analysis))
    return tuple(v for v in paired(analysis)[analysis.metric].variants if v not in lacking)


@once
def unscored(analysis: Analysis) -> tuple[tuple[str, str], ...]:
    """The variants that could be ranked but have no score, with that as the reason."""
    results, metric = analysis.results, analysis.metric
    return tuple(
        (v, "it has no score")
        for v in paired(analysis)[metric].variants
        if not np.isfinite(results.scores(v, metric)).any()
    )


def without(datasets: Sequence[str]) -> list[str]:
    """Names the datasets that a test leaves out."""
    if not datasets:
        return []
    shown = ", ".join(datasets[:MAX_NAMED])
    more = len(datasets) - MAX_NAMED
    return [
        f"Left out because cells are missing: {shown}{f' and {more} more' if more > 0 else ''}."
    ]


def as_sentence(text: str) -> list[str]:
    """A remark as a sentence of its own."""
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _sections(analysis: Analysis) -> Sequence[Section]:
    found = (*paired(analysis)[analysis.metric].left_out, *unscored(analysis))
    start = f"These tests are made on {label(analysis.metric)}; no verdict rests on them."
    return [
        Section(
            key="beside_the_verdicts",
            sentences=(
                make_sentence(start),
                *(
                    make_sentence(f"{v} is excluded from all of them: {reason}", kind="item")
                    for v, reason in found
                ),
            ),
            tables=(table("left_out", "Excluded", LEFT_OUT_COLUMNS, found),),
        )
    ]


TOPIC = Topic(key="beside_the_verdicts", build=_sections, files={"left_out": LEFT_OUT_COLUMNS})

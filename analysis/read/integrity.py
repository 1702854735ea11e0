"""Which numbers may stand in one table: one code version, one split of the data, no best of N.

What is excluded is named with the way out, never dropped silently.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from analysis.read.results import Problem

BEST_OF = re.compile(
    r"(?<![a-z])(?:best[ _-]*of[ _-]*(?:\d+|n)(?![a-z\d])"
    r"|(?:best[ _-]*|(?:max|maximum|best)[ _-]*(?:over|of|across)[ _-]*"
    r"(?:the[ _-]*|all[ _-]*|\d+[ _-]*|n[ _-]+)*)(?:seed|run|trial|repeat|restart)s?(?![a-z]))",
    re.IGNORECASE,
)
"""A maximum over runs. "max over time" and "max_overlap" are names like any other."""
EXCLUDED = "set aside"
"""The status of such a run, and the kind of its problem, as files have them."""
SAW_TEST = re.compile(r"(?<![a-z])(oracle|test)(?![a-z])", re.IGNORECASE)


class Provenance(NamedTuple):
    """Where a score comes from: its cell, the version of the code, the fingerprint of the split.

    An unknown version or fingerprint is "". ``other_code`` says why the code is not that of most
    scores, where more is known of it than a version.
    """

    variant: str
    dataset: str
    seed: int | None
    code: str
    data: str
    other_code: str = ""


def refuse_best_of(texts: Iterable[str], where: str) -> None:
    """Raise ValueError for a text that says best of N, or a maximum over seeds."""
    for text in texts:
        if BEST_OF.search(text):
            raise ValueError(
                f"{where}: {text!r} is the best of several runs, which lies above their mean by "
                "chance alone; give every run with its seed instead"
            )


def saw_test(selection: str) -> bool:
    """Whether the rule that chose the weights looked at test data, by its name."""
    return bool(SAW_TEST.search(selection))


def reasons_to_exclude(
    provenance: Sequence[Provenance], *, baseline: str, allow_mixed: bool = False
) -> list[str]:
    """For every score why it cannot be compared with the others, "" where it can.

    One code version is used, that of most scores (of the baseline where two are even), unless
    ``allow_mixed``. On one (dataset, seed) all scores share the split of the baseline, or of most.
    """
    codes = Counter(o.code for o in provenance if o.code and not o.other_code)
    own = {o.code for o in provenance if o.variant == baseline}
    main = max(codes, key=lambda code: (codes[code], code in own, code), default="")
    splits = _splits(provenance, baseline)
    reasons = []
    for score in provenance:
        expected = splits[score.dataset, score.seed]
        if score.other_code and not allow_mixed:
            reasons.append(score.other_code)
        elif score.code and score.code != main and not allow_mixed:
            reasons.append(
                f"code version {score.code}, while most runs have {main}; rerun it, or report with "
                "--allow-mixed"
            )
        elif score.data and expected and score.data not in expected:
            others = ", ".join(sorted(expected))
            reasons.append(f"data split {score.data}, while the runs paired with it have {others}")
        else:
            reasons.append("")
    return reasons


def exclusion_problems(provenance: Sequence[Provenance], reasons: Sequence[str]) -> list[Problem]:
    """The excluded scores, as problems of the report."""
    return [
        Problem(kind=EXCLUDED, variant=o.variant, dataset=o.dataset, seed=o.seed, detail=reason)
        for o, reason in zip(provenance, reasons, strict=True)
        if reason
    ]


def _splits(
    provenance: Sequence[Provenance], baseline: str
) -> dict[tuple[str, int | None], frozenset[str]]:
    """The split that every (dataset, seed) uses; without a seed, any that the dataset has."""
    found: dict[tuple[str, int | None], Counter[str]] = {}
    of_baseline: dict[tuple[str, int | None], str] = {}
    for o in provenance:
        found.setdefault((o.dataset, o.seed), Counter())[o.data] += bool(o.data)
        if o.variant == baseline and o.data:
            of_baseline[o.dataset, o.seed] = o.data
    chosen: dict[tuple[str, int | None], frozenset[str]] = {}
    for key, counts in found.items():
        most = max(counts, key=lambda data: (counts[data], data), default="")
        one = of_baseline.get(key, most)
        chosen[key] = frozenset({one} if one else ())
    for dataset, seed in list(chosen):
        if seed is None:
            own = [c for (d, s), c in chosen.items() if d == dataset and s is not None]
            chosen[dataset, seed] = frozenset().union(*own) or chosen[dataset, seed]
    return chosen

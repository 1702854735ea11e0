"""The rows of the answer: what is compared with what, so that better means that it helps."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.read.results import Results
from analysis.sections.analysis import Analysis, once
from analysis.sections.claims import LIKE, THESE
from analysis.sections.comparisons import Block, Comparison, compared
from analysis.sections.parts import PartsView, parts
from analysis.stats import Claim, PartEffect, win_tie_loss

OFF_PREFIXES = ("@No", "@Null")
METHOD, PART, SHARE, VARIANT = range(4)
AVERAGED = "averaged over the other parts (Shapley)"
NO_PARTS = PartsView()
SCOPE_FIELDS = {THESE: "these", LIKE: "like"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A row of the answer: what is compared with what, so that better means that ``name`` helps.

    ``role``: METHOD is a reference, or all parts of a toggle grid, against the baseline; PART is a
    reference with one of its parts against the same without it; SHARE is the Shapley value of a
    part of a toggle grid; VARIANT is any other variant against the baseline.
    ``all_parts``: it is a toggle grid with all parts on against all off. ``assumptions`` are those
    of the number beyond what every comparison assumes.
    """

    role: int
    name: str
    against: str
    c: Comparison
    all_parts: bool = False
    assumptions: tuple[str, ...] = ()

    @property
    def variant(self) -> str:
        """The row's variant in the table of comparisons, "" for none."""
        if self.role == SHARE:
            return ""
        return self.against if self.role == PART else self.name

    def claim(self, scope: str) -> Claim:
        """What it says in one scope."""
        found: Claim = getattr(self.c, SCOPE_FIELDS[scope])
        return found


def answers(results: Results, blocks: Sequence[Block], view: PartsView = NO_PARTS) -> list[Answer]:
    """The rows in the order in which they are read: methods, their parts, other variants.

    Every variant stands against the reference that it differs from in the fewest factors; a
    reference stands against the baseline. The variants of a toggle grid without a reference are
    answered by part.
    """
    grid = _grid_answers(results, blocks[0], view)
    inside = {*view.variant_of.values()} if grid else set()
    return [*grid, *_variant_answers(results, blocks, inside)]


def _variant_answers(results: Results, blocks: Sequence[Block], answered: Set[str]) -> list[Answer]:
    """The rows of variants and of the parts that references lack, without those ``answered``."""
    metric = results.primary_metric
    found = {block.reference: {c.variant: c for c in block.comparisons[metric]} for block in blocks}
    parts: list[Answer] = []
    others: list[Answer] = []
    for variant in (v for v in results.variants if v not in {results.baseline, *answered}):
        c = found.get(_closest(results, variant), {}).get(variant)
        if c is None or c.difference is None:
            continue
        if c.reference != results.baseline and (part := removed_part(results, c)):
            parts.append(_part(part, c))
        else:
            role = METHOD if variant in results.references else VARIANT
            others.append(Answer(role=role, name=variant, against=c.reference, c=c))
    whole = {row.c.variant for row in parts}
    methods = [row for row in others if row.role == METHOD and row.variant in whole]
    rest = [replace(row, role=VARIANT) for row in others if row not in methods]
    order = partial(sorted, key=lambda row: -results.direction(metric) * row.c.difference)
    return [*order(methods), *order(parts), *order(rest)]


def _closest(results: Results, variant: str) -> str:
    """The reference, or the baseline, that a variant differs from in the fewest factors."""
    if variant in results.references:
        return results.baseline
    anchors = [a for a in (results.baseline, *results.references) if a != variant]
    return min(anchors, key=lambda a: len(results.what_differs(variant, a)), default="")


def _grid_answers(results: Results, own: Block, view: PartsView) -> list[Answer]:
    """All parts together, and each by its Shapley value; empty where these do not answer."""
    found = view.attribution
    if results.references or found is None or not found.complete:
        return []
    c = _all_parts(results, own, view)
    shares = found.estimated("shapley").values()
    if c is None or c.difference is None or len(shares) < len(found.parts):
        return []
    name, against = c.variant, c.reference
    whole = Answer(role=METHOD, name=name, against=against, c=c, all_parts=True)
    order = {part: place for place, part in enumerate(found.by_value(results.direction(c.metric)))}
    rows = [
        Answer(
            role=SHARE,
            name=effect.parts[0],
            against=AVERAGED,
            c=_share(results, effect, c),
            assumptions=effect.assumptions,
        )
        for effect in shares
    ]
    return [whole, *sorted(rows, key=lambda row: order[row.name])]


def _all_parts(results: Results, own: Block, view: PartsView) -> Comparison | None:
    """The comparison of all parts with none of them, which has the baseline among the two."""
    assert view.attribution is not None
    full, base = (view.variant_of[frozenset(on)] for on in (view.attribution.parts, ()))
    if results.baseline == full:
        turned = own.of(base, results.primary_metric)
        return turned.reversed if turned else None
    return own.of(full, results.primary_metric) if results.baseline == base else None


def _share(results: Results, effect: PartEffect, whole: Comparison) -> Comparison:
    """The Shapley value of a part in the form of a comparison."""
    values = [value for value in effect.per_dataset if value is not None]
    wins, ties, losses = win_tie_loss(results.direction(whole.metric) * np.array(values))
    return Comparison(
        reference=AVERAGED,
        variant=effect.parts[0],
        metric=whole.metric,
        judgment=effect.judgment,
        reason=effect.reason,
        num_datasets=len(values),
        num_pairs=whole.num_pairs,
        difference=effect.value,
        wins=wins,
        ties=ties,
        losses=losses,
        per_dataset=effect.per_dataset,
    )


def _part(part: str, c: Comparison) -> Answer:
    """The reference with a part against the same without it. A part is called by its own name,
    ``TextRefiner.cache`` the cache.
    """
    name = part.rpartition(".")[2]
    return Answer(role=PART, name=name, against=c.variant, c=c.reversed)


def removed_part(results: Results, c: Comparison) -> str:
    """Name of the one factor that the variant switches off and in which alone it differs from the
    reference.
    """
    changes = results.what_differs(c.variant, c.reference)
    if len(changes) != 1:
        return ""
    name, old, new = changes[0]
    off = new.startswith(OFF_PREFIXES) or new in ("0", "0.0")
    return name if off and not old.startswith(OFF_PREFIXES) else ""


@once
def rows_of(analysis: Analysis) -> Sequence[Answer]:
    """The rows of the answer of this report."""
    if len(analysis.results.variants) < 2:
        return ()
    return answers(analysis.results, compared(analysis), parts(analysis))

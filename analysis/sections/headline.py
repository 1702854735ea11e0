"""Sentences that state which part helped, by how much and how certainly, derived from the numbers
alone.
"""

from collections.abc import Iterable, Sequence

from analysis.read.integrity import saw_test
from analysis.read.results import Results
from analysis.sections.analysis import Analysis
from analysis.sections.comparisons import Block, Comparison, compared
from analysis.sections.images import compared_images, image_sentences
from analysis.sections.section import Section, Sentence, Topic, make_sentence
from analysis.stats import SMALL
from analysis.text import Show, counted, interval_text, p_equals, phrase, points

OFF_PREFIXES = ("@No", "@Null")
MAX_OTHERS = 6
MAX_LISTED = 8
REFERENCE, PART, OTHER = range(3)
LEAST_SEEDS = 5
DECIDED = ("better", "worse")
NO_WIDER_CLAIM = "No claim is made about other datasets."
KINDS = {"wilcoxon": "bootstrap", "t_each": "seeds-only bootstrap"}

EMBEDDED_CAVEAT = (
    "Results on the embedded benchmark show that the implementation works, "
    "not that a method performs well on photographs."
)


def headline(results: Results, blocks: Sequence[Block]) -> tuple[Sentence, ...]:
    """What the comparisons of the primary metric say, the most telling first.

    The order: the references (a full method) against the baseline, what taking single parts out of
    a reference does, other decided variants by size, what is undecided, caveats. Against a further
    reference, only variants that remove one of its parts are reported where there are any;
    everything else is in the tables.
    """
    if len(results.variants) < 2:
        text = "There is only one variant, so there is nothing to compare. Add a second one."
        return (make_sentence(text, kind="note"),)
    reported = [c for block in blocks for c in _reported(results, block)]
    decided = sorted(
        (c for c in reported if c.verdict in DECIDED),
        key=lambda c: (_rank(results, c), -abs(c.difference or 0.0), c.reference, c.variant),
    )
    main = [c for c in decided if _rank(results, c) < OTHER]
    others = [c for c in decided if _rank(results, c) == OTHER]
    unsettled = [c for c in reported if c.verdict == "undecided" and _rank(results, c) == REFERENCE]
    sentences = [_unsettled(c) for c in unsettled]
    sentences += [_decided(results, c) for c in [*main, *others[:MAX_OTHERS]]]
    sentences += _also(others[MAX_OTHERS:])
    for block in blocks:
        own = [c for c in reported if c.reference == block.reference and c not in unsettled]
        sentences += [*_undecided(block.reference, own), *_equivalent(block.reference, own)]
    if not reported:
        names = ", ".join(b.reference for b in blocks)
        why = dict.fromkeys(
            c.reason for b in blocks for c in b.comparisons[results.primary_metric] if c.reason
        )
        text = f"No variant can be compared with {names}: {'; '.join(why)}."
        sentences.append(make_sentence(text, kind="note"))
    if seen := [v for v, s in results.settings.items() if saw_test(s.selection)]:
        text = f"Selection used test data, so these numbers are too high: {', '.join(seen)}."
        sentences.insert(0, make_sentence(text, kind="flag"))
    if results.problems:
        missing = len(results.problems)
        verb = "has" if missing == 1 else "have"
        text = f"{counted(missing, 'planned cell')} {verb} no score; see the list."
        sentences.append(make_sentence(text, kind="note"))
    if all(name.startswith("mosaic/") for name in results.datasets):
        sentences.append(make_sentence(EMBEDDED_CAVEAT, kind="note"))
    return tuple(sentences)


def _also(comparisons: Sequence[Comparison]) -> list[Sentence]:
    """One line for decided variants that get no sentence of their own, grouped by verdict."""
    groups: dict[str, list[str]] = {}
    for c in comparisons:
        groups.setdefault(f"{c.verdict} than {c.reference}", []).append(c.variant)
    return [
        make_sentence(f"Also {what}: {', '.join(names)}.", kind="note")
        for what, names in groups.items()
    ]


def _reported(results: Results, block: Block) -> list[Comparison]:
    """The comparisons of a block that the headline reports."""
    family = [c for c in block.comparisons[results.primary_metric] if c.difference is not None]
    if block.reference == results.baseline:
        return family
    family = [c for c in family if c.variant != results.baseline]
    return [c for c in family if removed_part(results, c)] or family


def _rank(results: Results, c: Comparison) -> int:
    if c.variant in results.references and c.reference == results.baseline:
        return REFERENCE
    return PART if removed_part(results, c) else OTHER


def _unsettled(c: Comparison) -> Sentence:
    """A full method of which the study cannot say whether it is better than the baseline."""
    seen = [f"95 % {KINDS.get(c.decided_by, 't')} interval {interval_text(c.interval)}"]
    seen += [c.reason] if c.reason else []
    text = (
        f"{c.variant} against {c.reference}: {points(c.difference, sign=True)} points "
        f"{phrase(c.metric)}, undecided ({'; '.join(seen)})."
    )
    return make_sentence(text, kind="undecided")


def _decided(results: Results, c: Comparison) -> Sentence:
    assert c.difference is not None
    size = points(abs(c.difference))
    interval = f"95 % {KINDS.get(c.decided_by, 't')} interval {interval_text(c.interval)}"
    certainty = f"{interval}, Holm-adjusted p {p_equals(c.holm_p)}"
    if part := removed_part(results, c):
        kind, helps, moves = (
            ("better", "helps", "loses") if c.difference < 0 else ("worse", "hurts", "gains")
        )
        text = (
            f"{part} {helps}: without it (variant {c.variant}) {c.reference} {moves} {size} points "
            f"{phrase(c.metric)} ({certainty})."
        )
    else:
        kind = c.verdict
        text = (
            f"{c.variant} is {c.verdict} than {c.reference} by {size} points {phrase(c.metric)} "
            f"({certainty})."
        )
    if c.negligible:
        text += f" The difference is {SMALL}."
    return make_sentence(text + _scope(c), kind=kind)


def _scope(c: Comparison) -> str:
    if c.decided_by in ("t_seeds", "t_corrected"):
        return " The claim is about this one dataset alone."
    if c.decided_by == "t_each":
        return f" This is shown in each of the {c.num_datasets} datasets. {NO_WIDER_CLAIM}"
    return ""


def _equivalent(reference: str, reported: Sequence[Comparison]) -> list[Sentence]:
    family = [c for c in reported if c.verdict == "equivalent"]
    if not family:
        return []
    shown = _listed(
        f"{c.variant} {points(c.difference, sign=True)} (p {p_equals(c.equivalence_p)})"
        for c in family
    )
    text = (
        f"Practically equal to {reference}, in points {phrase(family[0].metric)} with the "
        f"Holm-adjusted p of two one-sided tests: {shown}.{_scope(family[0])}"
    )
    return [make_sentence(text, kind="equivalent")]


def _listed(texts: Iterable[str]) -> str:
    """The first ``MAX_LISTED``, and how many more the table has."""
    every = list(texts)
    rest = len(every) - MAX_LISTED
    return "; ".join(every[:MAX_LISTED]) + (f"; and {rest} more in the table" if rest > 0 else "")


def _largest_first(family: Sequence[Comparison]) -> list[Comparison]:
    return sorted(family, key=lambda c: -abs(c.difference or 0.0))


def _undecided(reference: str, reported: Sequence[Comparison]) -> list[Sentence]:
    family = [c for c in reported if c.verdict == "undecided"]
    if not family:
        return []
    shown = _listed(
        f"{c.variant} {points(c.difference, sign=True)}"
        + (f" {interval_text(c.interval)}" if c.interval else "")
        + (f", {c.shown_in}" if c.shown_in else "")
        for c in _largest_first(family)
    )
    each = any(c.decided_by == "t_each" for c in family)
    text = (
        f"Undecided against {reference}, in points {phrase(family[0].metric)}"
        f"{' (not shown in every dataset)' if each else ''}: {shown}. "
        "This is not evidence of no difference."
    )
    return [make_sentence(text, kind="undecided"), *_beyond_seeds(reference, family)]


def _beyond_seeds(reference: str, undecided: Sequence[Comparison]) -> list[Sentence]:
    """Differences beyond seed variation on these datasets, where datasets are too few to decide.

    Only from two datasets and ``LEAST_SEEDS`` paired runs per dataset on: the coverage of a
    bootstrap over fewer runs is too low to report.
    """
    clear = [
        c
        for c in undecided
        if c.num_datasets > 1
        and c.num_pairs >= LEAST_SEEDS * c.num_datasets
        and c.seeds_only is not None
        and (c.seeds_only.low > 0 or c.seeds_only.high < 0)
    ]
    if not clear:
        return []
    shown = _listed(
        f"{c.variant} {points(c.difference, sign=True)} {interval_text(c.seeds_only)}"
        for c in _largest_first(clear)
    )
    text = (
        f"On these {clear[0].num_datasets} datasets alone, differences from {reference} beyond "
        f"seed variation (seeds-only 95 % intervals, not adjusted): {shown}. {NO_WIDER_CLAIM}"
    )
    return [make_sentence(text, kind="note")]


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


def _sections(analysis: Analysis) -> Sequence[Section]:
    said = headline(analysis.results, compared(analysis))
    images = image_sentences(compared_images(analysis), analysis.options.alpha)
    return [Section(key="headline", sentences=(*said, *images))]


TOPIC = Topic(key="headline", build=_sections, show=Show.ALL)

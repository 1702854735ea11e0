"""The further tests as boxes: sentences and at most one table each, for the page, Markdown and
LaTeX alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.sections.further import Further, ResampleTest, ShotTrend
from analysis.sections.tables import TextTable
from analysis.stats import MIN_DATASETS_FOR_WILCOXON, Interval, RankStability
from analysis.text import counted, interval_text, p_text, points

MAX_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One test as text. ``names`` and ``words`` count the leading and trailing columns of the table
    that hold words; between them are numbers. Without numbers ``reason`` says why.
    """

    key: str
    title: str
    sentences: tuple[str, ...] = ()
    table: TextTable | None = None
    names: int = 1
    words: int = 0
    reason: str = ""


def boxes(found: Further) -> tuple[Box, ...]:
    """All boxes in the order of the page."""
    return (
        _mixed(found),
        _conover(found),
        _stability(found),
        _rise(found),
        _advantage(found),
        _overlap(found),
    )


def _mixed(found: Further) -> Box:
    title, model = "Mixed model", found.mixed.model
    if not model.effects:
        return Box(key="mixed", title=title, reason=model.reason)
    rows = tuple(
        (
            e.variant,
            points(e.difference, sign=True),
            interval_text(e.interval),
            p_text(e.p),
            p_text(e.holm_p),
        )
        for e in model.effects
    )
    header = ("Variant", "Difference", "95 % interval", "p", "p Holm")
    table = TextTable(title=title, header=header, rows=rows)
    return Box(key="mixed", title=title, sentences=_mixed_sentences(found), table=table)


def _mixed_sentences(found: Further) -> tuple[str, ...]:
    """What was fitted, to what, and what a reader must know about it."""
    view, model = found.mixed, found.mixed.model
    said = [
        f"score ~ variant + (1 | dataset) + (1 | dataset × variant), fitted by REML to "
        f"{counted(model.num_scores, 'score')}; differences from {found.baseline}, with t of "
        "(datasets − 1)(variants − 1) degrees of freedom."
    ]
    if view.num_missing:
        said.append(
            f"{view.num_missing} of {counted(view.num_planned, 'planned score')} "
            f"{'is' if view.num_missing == 1 else 'are'} missing: for an incomplete table this "
            "model is the answer, because it uses every score that is there."
        )
    said.append(_variances(model.var_dataset, model.var_interaction, model.var_seed))
    if view.unseeded:
        names = ", ".join(view.unseeded)
        said.append(f"Without seeds, so one score a dataset and never copies: {names}.")
    if view.shared_seeds:
        said.append(
            "One trained model a seed is scored on every dataset: what a seed does to all of them "
            "together is not in this model."
        )
    return (*said, *_few(view.num_datasets), *_sentence(model.reason))


def _few(num_datasets: int) -> list[str]:
    """Below the least number of datasets it describes them."""
    if num_datasets >= MIN_DATASETS_FOR_WILCOXON:
        return []
    return [f"On {num_datasets} datasets this describes them and supports no claim on others."]


def _variances(dataset: float | None, interaction: float | None, seed: float | None) -> str:
    """Variances in squared points, with their roots in points."""
    parts = [("datasets", dataset), ("datasets × variants", interaction), ("seeds", seed)]
    if seed is None:
        parts = [("datasets", dataset), ("datasets × variants with seeds", interaction)]
    shown = ", ".join(
        f"{name} {10_000 * value:.2f} ({points(value**0.5)})"
        for name, value in parts
        if value is not None
    )
    return f"Variance between, in squared points, and its root in points: {shown}."


def _sentence(text: str) -> list[str]:
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _conover(found: Further) -> Box:
    view, title = found.conover, "Conover's test as a sensitivity check"
    if view.p_VV is None:
        return Box(key="conover", title=title, reason=view.reason)
    start = (
        f"Conover's test on the ranks of {counted(view.num_datasets, 'complete dataset')}, with "
        "Holm over all pairs. It decides nothing: it depends on which other variants are in the "
        "table."
    )
    if not view.disagreements:
        agrees = f"It agrees with the tests of pairs in all {counted(view.num_pairs, 'pair')}."
        few = _few(view.num_datasets)
        return Box(key="conover", title=title, sentences=(start, agrees, *few))
    rows = tuple(
        (d.variant, d.other, p_text(d.p), d.conover, d.pairwise) for d in view.disagreements
    )
    header = ("Variant", "Against", "p Holm, Conover", "Conover", "Test of the pair")
    several = f"It disagrees in {len(rows)} of {counted(view.num_pairs, 'pair')}:"
    return Box(
        key="conover",
        title=title,
        sentences=(start, *_few(view.num_datasets), several),
        table=TextTable(title=title, header=header, rows=rows),
        names=2,
        words=2,
    )


def _stability(found: Further) -> Box:
    view, title = found.stability, "Rank stability"
    if view.found is None:
        return Box(key="stability", title=title, reason=view.reason)
    header = (
        "Variant",
        "P(best), datasets like these",
        "P(first two), datasets like these",
        "P(best), these datasets",
        "P(first two), these datasets",
        "Mean rank",
        "95 % datasets like these",
        "95 % these datasets",
    )
    rows = tuple((variant, *_places(view.found, v)) for v, variant in enumerate(view.variants))
    text = (
        "How often each variant is first by its mean over datasets when datasets and seeds are "
        f"drawn again, the same for all variants; {counted(len(view.datasets), 'dataset')}, "
        f"{counted(view.num_seeds, 'seed')}. Mean rank: 1 is best."
    )
    return Box(
        key="stability",
        title=title,
        sentences=(text, *_gaps(view.left_out), *_sentence(view.found.mean_ranks[0].reason)),
        table=TextTable(title=title, header=header, rows=rows),
    )


def _places(stable: RankStability, v: int) -> tuple[str, ...]:
    """The numbers of one variant; a dash for a claim that the design cannot support."""
    rank = stable.mean_ranks[v]
    these, like = rank.on_these_datasets, rank.on_datasets_like_these
    return (
        _share(stable.best_on_like_these[v]) if like else "-",
        _share(stable.first_two_on_like_these[v]) if like else "-",
        _share(stable.best_on_these[v]) if these else "-",
        _share(stable.first_two_on_these[v]) if these else "-",
        f"{rank.value:.2f}",
        _ranks(like),
        _ranks(these),
    )


def _share(value: float) -> str:
    return f"{value:.2f}"


def _ranks(interval: Interval | None) -> str:
    return "-" if interval is None else f"[{interval.low:.2f}, {interval.high:.2f}]"


def _gaps(left_out: Sequence[str]) -> list[str]:
    if not left_out:
        return []
    shown = ", ".join(left_out[:MAX_NAMED])
    more = len(left_out) - MAX_NAMED
    return [f"Without {shown}{f' and {more} more' if more > 0 else ''}: cells are missing."]


def _rise(found: Further) -> Box:
    view, title = found.trends, "Does accuracy rise with shots?"
    if not view.rise:
        reason = view.reason or "no variant is trained on shots"
        return Box(key="rise", title=title, reason=reason)
    text = (
        "Page's L over datasets: one test a variant for the whole curve instead of one a number "
        "of shots; p is one-sided, with Holm over variants."
    )
    named = ", ".join(view.unseeded)
    flat = (f"Trained on nothing, so without a curve: {named}.",) if named else ()
    return Box(
        key="rise",
        title=title,
        sentences=(text, *flat, *_gaps(view.left_out)),
        table=_trend_table(title, view.rise),
        words=1 + _remarks(view.rise),
    )


def _advantage(found: Further) -> Box:
    view, title = found.trends, "Does the advantage grow with shots?"
    if not view.advantage:
        reason = view.reason or f"no variant has scores to compare with {found.baseline}"
        return Box(key="advantage", title=title, reason=reason)
    text = (
        f"Page's L of the difference from {found.baseline}, two-sided: it grows where more shots "
        "move it up, it shrinks where they move it down; Holm over variants."
    )
    return Box(
        key="advantage",
        title=title,
        sentences=(text, *_gaps(view.left_out)),
        table=_trend_table(title, view.advantage),
        words=1 + _remarks(view.advantage),
    )


def _trend_table(title: str, found: Sequence[ShotTrend]) -> TextTable:
    rows = tuple(
        (
            t.variant,
            "-" if t.trend.statistic is None else f"{t.trend.statistic:g}",
            str(t.trend.n),
            p_text(t.p),
            p_text(t.holm_p),
            t.word,
            *([t.trend.reason] if _remarks(found) else []),
        )
        for t in found
    )
    header = ("Variant", "L", "Datasets", "p", "p Holm", "Trend", "Remark")
    return TextTable(title=title, header=header[: len(rows[0])], rows=rows)


def _remarks(found: Sequence[ShotTrend]) -> bool:
    """Whether a trend has something to remark."""
    return any(t.trend.reason for t in found)


def _overlap(found: Further) -> Box:
    view, title = found.overlap, "Overlapping resamples"
    if not view.tests:
        return Box(key="overlap", title=title, reason=view.reason)
    text = (
        f"The seeds are resamples that share data, with {view.ratio:.4g} test images for each "
        "training image. The corrected resampled t uses the variance factor 1/n + test/train, the "
        f"plain t 1/n, which is too sure. Differences from {found.baseline}, not adjusted; P−, P=, "
        "P+: worse, practically equal, better by the Bayesian correlated t."
    )
    rows = tuple(map(_resample_row, view.tests))
    tests = ("95 % interval", "p corrected", "p plain t")
    header = ("Variant", "Dataset", "n", "Difference", *tests, "P−", "P=", "P+", "Remark")
    return Box(
        key="overlap",
        title=title,
        sentences=(text,),
        table=TextTable(title=title, header=header, rows=rows),
        names=2,
        words=1,
    )


def _resample_row(t: ResampleTest) -> tuple[str, ...]:
    return (
        t.variant,
        t.dataset,
        str(t.num_resamples),
        points(t.difference, sign=True),
        interval_text(t.test.interval),
        p_text(t.test.p),
        p_text(t.plain_p),
        *("-" if p is None else _share(p) for p in t.posterior[:3]),
        t.test.reason,
    )

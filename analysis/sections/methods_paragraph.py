"""A methods paragraph for a paper, made from what the report did, with its citations."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from analysis.read.budgets import VariantTraining
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options
from analysis.sections.comparisons import Block, compared
from analysis.sections.images import compared_images
from analysis.sections.parts import assumed, has_attribution
from analysis.sections.profiles import has_profiles
from analysis.sections.section import Citation, Section, Sentence, Topic, cite, make_sentence
from analysis.sections.trainings import training_sentences, trainings_of
from analysis.text import Column, Columns, Kind, Show, counted, label, table

NO_TRAININGS: Mapping[str, VariantTraining] = MappingProxyType({})


def methods_sentences(
    results: Results,
    blocks: Sequence[Block],
    options: Options,
    *,
    attribution: bool,
    assumed: Sequence[str] = (),
    profiles: bool,
    images: bool,
    trainings: Mapping[str, VariantTraining] = NO_TRAININGS,
) -> tuple[Sentence, ...]:
    """What was measured, how it was compared, and what is not claimed."""
    sentences = [
        _said(_design(results)),
        *training_sentences(trainings),
        *_tests(results, blocks, options),
        _intervals(options),
    ]
    if {"base", "new"} <= set(results.metrics):
        sentences.append(
            _said(
                "HM is the harmonic mean of base and new accuracy of each run",
                cite("xian2017"),
                "; the harmonic mean of the average accuracies is also reported.",
            )
        )
    if attribution:
        sentences.append(
            _said(
                "The gain of the full model over the model with all parts off is divided among the "
                "parts by exact Shapley values",
                cite("shapley1953"),
                "; interactions are Möbius coefficients",
                cite("grabisch1999"),
                f". They assume that {' and that '.join(assumed)}." if assumed else ".",
            )
        )
    if profiles:
        sentences.append(
            _said(
                "Interquartile means and performance profiles follow Agarwal et al.",
                cite("agarwal2021"),
                ".",
            )
        )
    if images:
        sentences.append(_said(*IMAGES))
    return tuple(sentences)


ALSO_REPORTED = (
    "Bayesian signed-rank posteriors",
    cite("benavoli2017"),
    ", the number of datasets in which an effect is shown",
    cite("dror2017"),
    " and the probability of outperforming",
    cite("bouthillier2021"),
    " are also reported.",
)
IMAGES = (
    "The trained models themselves are compared on the same test images by McNemar's exact test",
    cite("mcnemar1947"),
    " with Holm's correction over the variants of a target, and by Cochran's Q",
    cite("cochran1950"),
    "; these tests support no claim about the methods.",
)


def _said(*pieces: str | Citation) -> Sentence:
    return make_sentence(*pieces, kind="paper")


def _design(results: Results) -> str:
    seeds = len(results.planned_seeds)
    text = (
        f"We compare {counted(len(results.variants), 'variant')} on "
        f"{counted(len(results.datasets), 'dataset')}"
    )
    text += f" with {counted(seeds, 'seed')} each" if seeds else ", one run each"
    if results.shots:
        shots = ", ".join(map(str, results.shots))
        text += f" and {shots} training images per class"
    ends = sorted({s.selection for s in results.settings.values() if s.selection})
    text += f"; the reported weights follow the selection rule {' or '.join(ends)}" if ends else ""
    missing = len(results.problems)
    gap = (
        f" {counted(missing, 'planned cell')} without a usable score "
        f"{'was' if missing == 1 else 'were'} excluded from all means."
        if missing
        else ""
    )
    return (
        f"{text}. Runs with the same dataset and seed are paired: they share the training "
        f"images, their order and the initialization, as far as the runs were set up that way.{gap}"
    )


def _tests(results: Results, blocks: Sequence[Block], options: Options) -> list[Sentence]:
    metric = results.primary_metric
    family = [c for b in blocks for c in b.comparisons[metric] if c.difference is not None]
    these = any(c.these.p is not None for c in family)
    like = any(c.like.p is not None for c in family)
    if not these and not like:
        return [_said("No test is made, because there is at most one paired run.")]
    return [
        *_scopes(results, options, these=these, like=like),
        _said(
            f"All tests are on {label(metric)} and two-sided, with Holm's correction over the "
            "comparisons with the same reference in the same scope",
            cite("holm1979"),
            f", at a significance level of {options.alpha:g}; which test decides follows from the "
            "scope alone.",
        ),
        *_overlap(options),
        _said(
            "Pairs are never compared by mean ranks, which depend on the other methods in the "
            "table",
            cite("benavoli2016"),
            ".",
        ),
        *_equivalence(options),
        _said(*ALSO_REPORTED),
    ]


def _scopes(results: Results, options: Options, *, these: bool, like: bool) -> list[Sentence]:
    """The tests that were made, by the scope of their claims."""
    said = []
    if these:
        said.append(_said(*_over_seeds(results, options)))
    if like:
        said.append(
            _said(
                "Claims about datasets like these rest on a paired t test over dataset means, in "
                "which the datasets are the sample",
                cite("demsar2006"),
                " and their effects are taken to be roughly normal; an exact Wilcoxon signed-rank "
                "test with Pratt's treatment of zeros",
                cite("wilcoxon1945"),
                cite("pratt1959"),
                " and an exact sign-flip test are reported beside it.",
            )
        )
    return said


def _over_seeds(results: Results, options: Options) -> tuple[str | Citation, ...]:
    """The test of the claims about the datasets of the study."""
    if len(results.datasets) == 1:
        test = "paired t test" if options.overlap is None else "corrected resampled t test"
        return (f"Claims about the one dataset rest on a {test} over its seeds.",)
    if results.shared_seeds:
        return (
            "Claims about these datasets rest on a paired t test over seeds of the mean over "
            "datasets, because each trained model is scored on all of them.",
        )
    return (
        "Claims about these datasets rest on a t test of the mean difference over datasets in "
        "which the seeds are the sample, stratified by dataset, with unpooled variances and "
        "Satterthwaite's degrees of freedom",
        cite("satterthwaite1946"),
        ".",
    )


def _equivalence(options: Options) -> list[Sentence]:
    if not options.rope:
        return []
    return [
        _said(
            "Two variants are called equivalent when two one-sided tests",
            cite("schuirmann1987"),
            f" place their mean difference within {_percentage_points(options.rope)} of zero; a "
            "difference that is neither significant nor equivalent is called undecided.",
        )
    ]


def _percentage_points(fraction: float) -> str:
    amount = f"{100 * fraction:g}"
    return f"{amount} percentage point{'' if amount == '1' else 's'}"


def _overlap(options: Options) -> list[Sentence]:
    if options.overlap is None:
        return []
    return [
        _said(
            f"The seeds are resamples that share data ({options.overlap:.4g} test images per "
            "training image): tests over seeds use the variance factor 1/n + test/train",
            cite("nadeau2003"),
            ".",
        )
    ]


def _intervals(options: Options) -> Sentence:
    how = "adjusted for their family (Bonferroni)" if options.adjusted_intervals else "not adjusted"
    return _said(f"Intervals are 95 % t intervals of the same means, {how}.")


COLUMNS: Columns[Citation] = (
    Column("key", "Key", Kind.CODE, lambda c: c.key, Show.FILES),
    Column("text", "Reference", Kind.TEXT, lambda c: c.text, Show.FILES),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    sentences = methods_sentences(
        analysis.results,
        compared(analysis),
        analysis.options,
        attribution=has_attribution(analysis),
        assumed=assumed(analysis),
        profiles=has_profiles(analysis),
        images=compared_images(analysis).one_seed,
        trainings=trainings_of(analysis),
    )
    works = dict.fromkeys(work for sentence in sentences for work in sentence.citations)
    tables = (table("references", "References", COLUMNS, works),)
    return [Section(key="methods", sentences=sentences, tables=tables)]


TOPIC = Topic(key="methods", build=_sections, files={"references": COLUMNS})

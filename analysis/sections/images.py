"""Image by image: the test images on which only one of two trained models is correct.

McNemar's exact test of every variant against the baseline and Cochran's Q over all of them, always
one run of each on the same images. The claim is about these trained models, not about the methods:
the images of one run are not a sample of runs. All seeds together are compared with the images as
clusters, because seeds of a method tend to be correct on the same images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.analysis import MAX_IMAGE_RUNS, Analysis, once
from analysis.sections.clustered_images import (
    CLUSTERED_COLUMNS,
    CLUSTERED_NOTE,
    ClusteredPair,
    clustered_pairs,
)
from analysis.sections.image_runs import (
    Read,
    Seeds,
    bits,
    compared_variants,
    needed_runs,
    reader,
    run_of,
    runs_by_dataset,
    shared_seeds,
)
from analysis.sections.pairwise import LEFT_OUT_COLUMNS
from analysis.sections.section import Section, Sentence, Topic, make_sentence, running_text
from analysis.stats import Interval
from analysis.stats.image_tests import CLAIM as CLAIM_OF_IMAGES
from analysis.text import (
    Column,
    Columns,
    Kind,
    Show,
    Span,
    Table,
    Tally,
    counted,
    only_in_files,
    p_equals,
    table,
)
from core.store.correct import CorrectImages

LEAST_MODELS = 3
FEW_SEEDS = 3
MAX_QUOTED = 4
CLAIM = f"These tests support claims {CLAIM_OF_IMAGES}: another seed yields another model."
OTHER_IMAGES = "not the same test images in the same order and among the same classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """A run of a variant against the baseline's run of the same seed, on one target.

    ``difference`` and ``interval`` are of the accuracies, variant minus baseline. ``holm_p`` and
    the smallest p attainable with that many disagreements are adjusted over all variants and seeds
    of the dataset and target. ``reason`` says why there is no test.
    """

    variant: str
    dataset: str
    target: str
    seed: int | None
    images: int = 0
    only_variant: int | None = None
    only_baseline: int | None = None
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    holm_p: float | None = None
    smallest_holm_p: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOmnibus:
    """Cochran's Q of all models of one seed on one target; Holm is over the seeds."""

    dataset: str
    target: str
    seed: int | None
    variants: tuple[str, ...]
    images: int = 0
    q: float | None = None
    p: float | None = None
    holm_p: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTests:
    """All tests on images. ``one_seed``: there is no test over seeds, so that these are the only
    ones about the datasets at hand; ``reason`` says why there is none at all.
    """

    baseline: str
    one_seed: bool = False
    pairs: tuple[ImagePair, ...] = ()
    omnibus: tuple[ImageOmnibus, ...] = ()
    clustered: tuple[ClusteredPair, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    reason: str = ""


Row = TypeVar("Row", ImagePair, ImageOmnibus, ClusteredPair)


def image_tests(
    results: Results, study_dir: Path | None, *, most: int = MAX_IMAGE_RUNS
) -> ImageTests:
    """Read the runs of a study folder, at most ``most``, and compare them image by image."""
    blank = ImageTests(baseline=results.baseline)
    if study_dir is None or results.runs.empty:
        return replace(blank, reason="tests on images need a study folder, which records them")
    compared, left_out = compared_variants(results)
    blank = replace(blank, left_out=left_out)
    groups = runs_by_dataset(results, (results.baseline, *compared))
    needed = {name for runs in groups.values() for name in needed_runs(runs, results.baseline)}
    if not needed:
        return replace(blank, reason="no finished pair of runs with the same dataset and seed")
    if len(needed) > most:
        reason = (
            f"{len(needed):,} runs would have to be read, and the limit is {most:,}; report with "
            f"--image-runs {len(needed)}, or report a study of fewer variants or one dataset"
        )
        return replace(blank, reason=reason)
    pairs: list[ImagePair] = []
    omnibus: list[ImageOmnibus] = []
    clustered: list[ClusteredPair] = []
    for dataset, runs in groups.items():
        read = cache(reader(study_dir))
        pairs += _pairs(dataset, runs, results.baseline, read)
        omnibus += _omnibus(dataset, runs, results.baseline, read)
        clustered += clustered_pairs(dataset, runs, results.baseline, read)
    if all(pair.p is None for pair in pairs):
        first, *others = dict.fromkeys(pair.reason for pair in pairs)
        more = f" (and {counted(len(others), 'other reason')})" if others else ""
        return replace(blank, reason=f"{first}{more}")
    return replace(
        blank,
        one_seed=len(results.planned_seeds) <= 1,
        pairs=_adjusted_pairs(pairs),
        omnibus=_adjusted_omnibus(omnibus),
        clustered=tuple(
            replace(c, holm_p=p)
            for c, p, _ in _holm_by_family([c for c in clustered if c.seeds > 1])
        ),
    )


def _pairs(
    dataset: str, runs: Mapping[str, Seeds], baseline: str, read: Read
) -> Iterator[ImagePair]:
    for variant, own in runs.items():
        for seed in shared_seeds(own, runs[baseline]) if variant != baseline else ():
            found = [read(run_of(side, seed)) for side in (own, runs[baseline])]
            blank = ImagePair(variant=variant, dataset=dataset, target="", seed=seed)
            if why := [side for side in found if isinstance(side, str)]:
                yield replace(blank, reason=why[0])
                continue
            one, two = (side for side in found if not isinstance(side, str))
            for target in dict.fromkeys((*two, *one)):
                yield pair_on_target(replace(blank, target=target), one, two)


def pair_on_target(
    blank: ImagePair, one: Mapping[str, CorrectImages], two: Mapping[str, CorrectImages]
) -> ImagePair:
    """McNemar's exact test on ``blank.target``, or the reason why there is none."""
    if blank.target not in one or blank.target not in two:
        return replace(blank, reason="scored in only one of the two runs")
    mine, other = one[blank.target], two[blank.target]
    if mine.test_list != other.test_list:
        return replace(blank, reason=OTHER_IMAGES)
    test = stats.mcnemar_exact(bits(mine), bits(other))
    return replace(
        blank,
        images=mine.num_images,
        only_variant=test.table[0][1],
        only_baseline=test.table[1][0],
        difference=test.difference,
        interval=test.interval,
        p=test.p,
        smallest_holm_p=test.smallest_p,
        reason=test.reason,
    )


def _omnibus(
    dataset: str, runs: Mapping[str, Seeds], baseline: str, read: Read
) -> Iterator[ImageOmnibus]:
    """Cochran's Q for every seed of the baseline, or for every seed where it has none."""
    seeds = {s for own in runs.values() for s in own if s is not None and None in runs[baseline]}
    planned: list[int | None] = [*sorted(seeds or {s for s in runs[baseline] if s is not None})]
    for seed in planned or [None]:
        models = {v: read(run_of(own, seed)) for v, own in runs.items() if {seed, None} & {*own}}
        known = {v: found for v, found in models.items() if not isinstance(found, str)}
        for target, asked in known.get(baseline, {}).items():
            columns = {
                v: found[target]
                for v, found in known.items()
                if target in found and found[target].test_list == asked.test_list
            }
            row = ImageOmnibus(dataset=dataset, target=target, seed=seed, variants=tuple(columns))
            if len(columns) < LEAST_MODELS:
                why = f"Cochran's Q needs {LEAST_MODELS} models on the same images"
                yield replace(row, images=asked.num_images, reason=why)
                continue
            test = stats.cochran_q(np.stack([bits(c) for c in columns.values()], axis=1))
            yield replace(row, images=asked.num_images, q=test.q, p=test.p, reason=test.reason)


def _adjusted_pairs(pairs: Sequence[ImagePair]) -> tuple[ImagePair, ...]:
    """Holm over the tests of one dataset and target, which then stand together."""
    done: list[ImagePair] = []
    for pair, holm_p, size in _holm_by_family(pairs):
        least = pair.smallest_holm_p
        least = None if least is None else min(1.0, least * size)
        done.append(replace(pair, holm_p=holm_p, smallest_holm_p=least))
    return tuple(done)


def _adjusted_omnibus(rows: Sequence[ImageOmnibus]) -> tuple[ImageOmnibus, ...]:
    return tuple(replace(row, holm_p=holm_p) for row, holm_p, _ in _holm_by_family(rows))


def _holm_by_family(rows: Sequence[Row]) -> Iterator[tuple[Row, float | None, int]]:
    """Each row with its adjusted p and the number of tests on its dataset and target; a row
    without a test does not count.
    """
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        families.setdefault((row.dataset, row.target), []).append(row)
    for family in families.values():
        tested = [row.p for row in family if row.p is not None]
        adjusted = iter(stats.holm(tested))
        for row in family:
            yield row, None if row.p is None else next(adjusted), len(tested)


@once
def compared_images(analysis: Analysis) -> ImageTests:
    """The tests on images of this report."""
    return image_tests(analysis.results, analysis.folder, most=analysis.image_runs)


def claim(view: ImageTests) -> str:
    """What the tests support claims about, and what stays open where they are the only ones."""
    if not view.one_seed:
        return CLAIM
    return f"{CLAIM} With one seed, nothing more is known about these datasets."


def _adjusted_over(view: ImageTests) -> str:
    """What Holm's adjustment counts as one family."""
    if view.one_seed:
        return "p Holm is adjusted over the variants of a dataset and target."
    return (
        "p Holm is adjusted over all variants and seeds of a dataset and target. Seeds are shown "
        "side by side, because they predict the same images; another table has them together."
    )


def image_sentences(view: ImageTests, alpha: float) -> tuple[Sentence, ...]:
    """What the images say of two trained models where nothing else can be tested."""
    tested = [pair for pair in view.pairs if pair.holm_p is not None]
    if not view.one_seed or not tested:
        return ()
    shown = [pair for pair in tested if pair.holm_p is not None and pair.holm_p < alpha]
    if shown:
        several = len({pair.dataset for pair in tested}) > 1
        findings = "; ".join(
            _pair_text(pair, view.baseline, several) for pair in shown[:MAX_QUOTED]
        )
        more = len(shown) - MAX_QUOTED
        findings += f"; and {counted(more, 'more test')} below {alpha:g}" if more > 0 else ""
    else:
        findings = (
            f"no trained model is shown to differ from that of {view.baseline} on any target, "
            "which is not evidence that they are equal"
        )
    text = f"Image by image (McNemar's exact test, Holm): {findings}. {claim(view)}"
    return (make_sentence(text, kind="note"),)


def _pair_text(pair: ImagePair, baseline: str, several: bool) -> str:
    where = f"{pair.target} of {pair.dataset}" if several else pair.target
    return (
        f"on {where}, {pair.variant} alone is correct on {pair.only_variant} of {pair.images} "
        f"images, {baseline} alone on {pair.only_baseline} (p {p_equals(pair.holm_p)})"
    )


PAIR_COLUMNS: Columns[ImagePair] = (
    Column("variant", "Variant", Kind.NAME, lambda p: p.variant),
    Column("dataset", "Dataset", Kind.TEXT, lambda p: p.dataset),
    Column("target", "Target", Kind.TEXT, lambda p: p.target),
    Column("seed", "Seed", Kind.ID, lambda p: p.seed),
    Column("images", "Images", Kind.COUNT, lambda p: p.images),
    Column("only_variant", "Only the variant correct", Kind.COUNT, lambda p: p.only_variant),
    Column("only_baseline", "Only the baseline correct", Kind.COUNT, lambda p: p.only_baseline),
    Column(
        "difference",
        "Difference, points",
        Kind.DIFFERENCE,
        lambda p: p.difference,
        help="accuracy of the variant minus that of the baseline",
    ),
    Column("interval", "95 % interval", Kind.INTERVAL, lambda p: p.interval),
    Column("p", "p", Kind.P, lambda p: p.p),
    Column(
        "holm_p",
        "p Holm",
        Kind.P,
        lambda p: p.holm_p,
        help="adjusted over all variants and seeds of the dataset and target",
    ),
    Column("smallest_holm_p", "Smallest attainable p", Kind.P, lambda p: p.smallest_holm_p),
    Column("reason", "Remark", Kind.NOTE, lambda p: p.reason, optional=True),
)
OMNIBUS_COLUMNS: Columns[ImageOmnibus] = (
    Column("dataset", "Dataset", Kind.NAME, lambda o: o.dataset),
    Column("target", "Target", Kind.TEXT, lambda o: o.target),
    Column("seed", "Seed", Kind.ID, lambda o: o.seed),
    Column("variants", "Models", Kind.LIST, lambda o: o.variants, Show.FILES),
    Column("models", "Models", Kind.COUNT, lambda o: len(o.variants), Show.READ),
    Column("images", "Images", Kind.COUNT, lambda o: o.images),
    Column("q", "Q", Kind.NUMBER, lambda o: o.q),
    Column("p", "p", Kind.P, lambda o: o.p),
    Column("holm_p", "p Holm", Kind.P, lambda o: o.holm_p, help="adjusted over the seeds"),
    Column("reason", "Remark", Kind.NOTE, lambda o: o.reason, optional=True),
)


class PairSeeds(NamedTuple):
    """The tests of one variant, dataset and target over its seeds, which are reported side
    by side and never pooled: they predict the same images.
    """

    pairs: tuple[ImagePair, ...]
    alpha: float

    @property
    def tested(self) -> list[ImagePair]:
        """The seeds with a test."""
        return [pair for pair in self.pairs if pair.p is not None]

    def span(self, name: str) -> Span | None:
        """From the smallest to the largest of a number over the seeds."""
        found = [value for p in self.tested if (value := getattr(p, name)) is not None]
        return Span(min(found), max(found)) if found else None

    def shown(self, sign: int) -> Tally | None:
        """In how many seeds the variant is correct more often (1) or less often (-1)."""
        significant = [p for p in self.tested if p.holm_p is not None and p.holm_p < self.alpha]
        count = sum((p.difference or 0.0) * sign > 0 for p in significant)
        return Tally(count, len(self.tested)) if self.tested else None


class OmnibusSeeds(NamedTuple):
    """Cochran's Q of one dataset and target over its seeds."""

    rows: tuple[ImageOmnibus, ...]
    alpha: float

    @property
    def tested(self) -> list[ImageOmnibus]:
        """The seeds with a test."""
        return [row for row in self.rows if row.p is not None]

    @property
    def q(self) -> Span | None:
        """From the smallest to the largest statistic."""
        found = [row.q for row in self.tested if row.q is not None]
        return Span(min(found), max(found)) if found else None

    @property
    def differ(self) -> Tally | None:
        """In how many seeds the models differ."""
        count = sum(row.holm_p is not None and row.holm_p < self.alpha for row in self.tested)
        return Tally(count, len(self.tested)) if self.tested else None


def _reasons(rows: Sequence[ImagePair] | Sequence[ImageOmnibus]) -> tuple[str, ...]:
    """Why there is no test, each reason once."""
    return tuple(dict.fromkeys(row.reason for row in rows if row.p is None))


def _pair_seeds_columns(baseline: str, alpha: float) -> Columns[PairSeeds]:
    counts = {
        "images": "Images",
        "only_variant": "Only the variant correct",
        "only_baseline": f"Only {baseline} correct",
    }
    significant = f"correct, p Holm < {alpha:g}"
    columns: list[Column[PairSeeds]] = [
        Column("variant", "Variant", Kind.NAME, lambda s: s.pairs[0].variant),
        Column("dataset", "Dataset", Kind.TEXT, lambda s: s.pairs[0].dataset),
        Column("target", "Target", Kind.TEXT, lambda s: s.pairs[0].target or None),
        Column("seeds", "Seeds", Kind.COUNT, lambda s: len(s.tested)),
        *(
            Column(name, title, Kind.COUNT, partial(PairSeeds.span, name=name))
            for name, title in counts.items()
        ),
        Column("difference", "Difference, points", Kind.DIFFERENCE, lambda s: s.span("difference")),
        Column("more", f"More {significant}", Kind.TALLY, lambda s: s.shown(1)),
        Column("fewer", f"Fewer {significant}", Kind.TALLY, lambda s: s.shown(-1)),
        Column("remark", "Remark", Kind.NOTE, lambda s: _reasons(s.pairs), optional=True),
    ]
    return tuple(replace(column, show=Show.READ) for column in columns)


def _omnibus_seeds_columns(alpha: float) -> Columns[OmnibusSeeds]:
    return (
        Column("dataset", "Dataset", Kind.NAME, lambda s: s.rows[0].dataset, Show.READ),
        Column("target", "Target", Kind.TEXT, lambda s: s.rows[0].target, Show.READ),
        Column("seeds", "Seeds", Kind.COUNT, lambda s: len(s.tested), Show.READ),
        Column("models", "Models", Kind.COUNT, _models, Show.READ),
        Column("q", "Q", Kind.NUMBER, lambda s: s.q, Show.READ),
        Column(
            "differ",
            f"Models differ, p Holm < {alpha:g}",
            Kind.TALLY,
            lambda s: s.differ,
            Show.READ,
        ),
        Column("remark", "Remark", Kind.NOTE, lambda s: _reasons(s.rows), Show.READ, optional=True),
    )


def _models(found: OmnibusSeeds) -> Span:
    counts = [len(row.variants) for row in found.rows]
    return Span(min(counts), max(counts))


def pair_tables(view: ImageTests, alpha: float) -> list[Table]:
    """One row per comparison, dataset and target: each seed where they are few, otherwise the
    number of seeds in which the test finds a difference.
    """
    title = f"McNemar's exact test against {view.baseline}, image by image"
    groups: dict[tuple[str, str, str], list[ImagePair]] = {}
    for pair in view.pairs:
        groups.setdefault((pair.variant, pair.dataset, pair.target), []).append(pair)
    if max(map(len, groups.values()), default=0) <= FEW_SEEDS:
        several = len({pair.seed for pair in view.pairs}) > 1
        columns = tuple(_titled(c, view.baseline) for c in _with_seeds(PAIR_COLUMNS, several))
        return [table("mcnemar", title, columns, view.pairs)]
    rows = [PairSeeds(tuple(group), alpha) for group in groups.values()]
    return [
        table("mcnemar_seeds", title, _pair_seeds_columns(view.baseline, alpha), rows),
        table("mcnemar", title, only_in_files(PAIR_COLUMNS), view.pairs),
    ]


def _titled(column: Column[ImagePair], baseline: str) -> Column[ImagePair]:
    """The column as printed, with the name of the baseline."""
    if column.key == "only_baseline":
        return replace(column, title=f"Only {baseline} correct")
    return column


def _with_seeds(columns: Columns[Row], several: bool) -> Columns[Row]:
    """The columns as printed, with the seed where there are several."""
    show = Show.ALL if several else Show.FILES
    return tuple(replace(c, show=show) if c.key == "seed" else c for c in columns)


def omnibus_tables(view: ImageTests, alpha: float) -> list[Table]:
    """Cochran's Q, in the same two forms."""
    title = "Cochran's Q: are all models equally often correct on the same images?"
    groups: dict[tuple[str, str], list[ImageOmnibus]] = {}
    for row in view.omnibus:
        groups.setdefault((row.dataset, row.target), []).append(row)
    if max(map(len, groups.values()), default=0) <= FEW_SEEDS:
        several = len({row.seed for row in view.omnibus}) > 1
        return [table("cochran", title, _with_seeds(OMNIBUS_COLUMNS, several), view.omnibus)]
    rows = [OmnibusSeeds(tuple(group), alpha) for group in groups.values()]
    return [
        table("cochran_seeds", title, _omnibus_seeds_columns(alpha), rows),
        table("cochran", title, only_in_files(OMNIBUS_COLUMNS), view.omnibus),
    ]


SCOPE_COLUMNS: Columns[ImageTests] = (
    Column("claim", "Claim", Kind.TEXT, claim, Show.FILES),
    Column(
        "one_seed",
        "One seed",
        Kind.YES_NO,
        lambda v: v.one_seed,
        Show.FILES,
        help="no test over seeds exists",
    ),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    view, alpha = compared_images(analysis), analysis.options.alpha
    title = f"All seeds together against {view.baseline}, clustered by image"
    clustered = table("clustered", title, CLUSTERED_COLUMNS, view.clustered, notes=[CLUSTERED_NOTE])
    tables = [*pair_tables(view, alpha), clustered, *omnibus_tables(view, alpha)]
    if not view.one_seed:
        tables = [replace(t, folded=True) for t in tables]
    left_out = (f"{v} is not tested: {reason}" for v, reason in view.left_out)
    return [
        Section(
            key="images",
            sentences=(
                *running_text([f"{claim(view)} {_adjusted_over(view)}"]),
                *(make_sentence(text, kind="item") for text in left_out),
            ),
            tables=(
                *tables,
                table("left_out", "Not tested", LEFT_OUT_COLUMNS, view.left_out),
                table("scope", "Scope", SCOPE_COLUMNS, [view]),
            ),
            reason=view.reason,
        )
    ]


TOPIC = Topic(
    key="images",
    build=_sections,
    files={
        "mcnemar": PAIR_COLUMNS,
        "clustered": CLUSTERED_COLUMNS,
        "cochran": OMNIBUS_COLUMNS,
        "left_out": LEFT_OUT_COLUMNS,
        "scope": SCOPE_COLUMNS,
    },
)

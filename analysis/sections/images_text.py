"""The tests on images as tables, sentences and records: what the page, report.md and report.json
say of them.
"""

from collections.abc import Sequence

from analysis.sections.headline import Sentence
from analysis.sections.images import NOT_KNOWN, ImageOmnibus, ImagePair, ImagesView
from analysis.sections.tables import TextTable, escape_markdown
from analysis.stats import Interval, image_tests
from analysis.text import counted, interval_text, p_text, points, rounded, rounded_p

CLAIM = f"A claim {image_tests.CLAIM}: another seed trains other models."
FEW_SEEDS = 3
MOST_TOLD = 4


def claim(view: ImagesView) -> str:
    """What the tests speak about, and what is left open where they are the only ones."""
    if not view.only_test:
        return CLAIM
    return f"{CLAIM} With one seed no other test exists, so the methods stay undecided."


def adjusted_over(view: ImagesView) -> str:
    """What Holm's adjustment counts as one family."""
    if view.only_test:
        return "p Holm is adjusted over the variants of a dataset and target."
    return (
        "p Holm is adjusted over all variants and seeds of a dataset and target. Seeds stand side "
        "by side and are never added up: they answer the same images."
    )


def image_sentences(view: ImagesView, alpha: float) -> tuple[Sentence, ...]:
    """What the images say of two trained models where nothing else can be tested."""
    tested = [pair for pair in view.pairs if pair.holm_p is not None]
    if not view.only_test or not tested:
        return ()
    shown = [pair for pair in tested if pair.holm_p is not None and pair.holm_p < alpha]
    if shown:
        several = len({pair.dataset for pair in tested}) > 1
        told = "; ".join(_told(pair, view.baseline, several) for pair in shown[:MOST_TOLD])
        more = len(shown) - MOST_TOLD
        told += f"; and {counted(more, 'more test')} below {alpha:g}" if more > 0 else ""
    else:
        told = (
            f"no trained model is shown to differ from that of {view.baseline} on any target, "
            "which is no evidence that they are equal"
        )
    text = f"Image by image (McNemar's exact test, Holm): {told}. {claim(view)}"
    return (Sentence(kind="note", text=text),)


def _told(pair: ImagePair, baseline: str, several: bool) -> str:
    p = p_text(pair.holm_p)
    equals = f"< {p[1:]}" if p.startswith("<") else f"= {p}"
    where = f"{pair.target} of {pair.dataset}" if several else pair.target
    return (
        f"on {where}, {pair.variant} alone is right on {pair.only_variant} of {pair.images} "
        f"images, {baseline} alone on {pair.only_baseline} (p {equals})"
    )


def pair_table(view: ImagesView, alpha: float) -> TextTable:
    """A row a comparison, dataset and target: of each seed where they are few, otherwise in how
    many seeds the test finds a difference.
    """
    groups: dict[tuple[str, str, str], list[ImagePair]] = {}
    for pair in view.pairs:
        groups.setdefault((pair.variant, pair.dataset, pair.target), []).append(pair)
    title = f"McNemar's exact test against {view.baseline}, image by image"
    start = ("Variant", "Dataset", "Target")
    counts = ("Images", "Right, only it", f"Right, only {view.baseline}", "Difference, points")
    if max(map(len, groups.values()), default=0) <= FEW_SEEDS:
        tests = ("95 % interval", "p", "p Holm", "smallest p, it could be", "Remark")
        rows = tuple(_one_seed(pair) for pair in view.pairs)
        return _slim(title, (*start, "Seed", *counts, *tests), rows)
    found = (f"More right, p Holm < {alpha:g}", f"Fewer right, p Holm < {alpha:g}", "Remark")
    rows = tuple(
        (variant, dataset, target or NOT_KNOWN, *_all_seeds(group, alpha))
        for (variant, dataset, target), group in groups.items()
    )
    return _slim(title, (*start, "Seeds", *counts, *found), rows)


def omnibus_table(view: ImagesView, alpha: float) -> TextTable:
    """Cochran's Q, in the same two forms."""
    groups: dict[tuple[str, str], list[ImageOmnibus]] = {}
    for row in view.omnibus:
        groups.setdefault((row.dataset, row.target), []).append(row)
    title = "Cochran's Q: are all models equally often right on the same images?"
    start = ("Dataset", "Target")
    if max(map(len, groups.values()), default=0) <= FEW_SEEDS:
        tests = ("Seed", "Models", "Images", "Q", "p", "p Holm", "Remark")
        rows = tuple(_one_omnibus(row) for row in view.omnibus)
        return _slim(title, (*start, *tests), rows)
    found = ("Seeds", "Models", "Q", f"Differ, p Holm < {alpha:g}", "Remark")
    rows = tuple((*key, *_all_omnibus(group, alpha)) for key, group in groups.items())
    return _slim(title, (*start, *found), rows)


def _slim(title: str, header: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> TextTable:
    """A table without remarks where there is none, and without the seed where there is one."""
    said = {name: {row[i] for row in rows} for i, name in enumerate(header)}
    kept = [
        i
        for i, name in enumerate(header)
        if not (name == "Remark" and said[name] <= {""})
        and not (name == "Seed" and len(said[name]) < 2)
    ]
    slim = tuple(tuple(row[i] for i in kept) for row in rows)
    return TextTable(title=title, header=tuple(header[i] for i in kept), rows=slim)


def page_tables(view: ImagesView, alpha: float) -> dict[str, str | TextTable]:
    """What the page shows of the tests."""
    return {
        "claim": claim(view),
        "adjusted": adjusted_over(view),
        "pairs": pair_table(view, alpha),
        "omnibus": omnibus_table(view, alpha),
    }


def images_markdown(view: ImagesView, alpha: float) -> str:
    """The section of report.md."""
    title = "## Image by image\n\n"
    if view.reason:
        return f"{title}Not applicable: {escape_markdown(view.reason)}.\n"
    tables = [pair_table(view, alpha), omnibus_table(view, alpha)]
    parts = [f"{title}{claim(view)} {adjusted_over(view)}\n"]
    parts += [f"**{escape_markdown(t.title)}**\n\n{t.to_markdown()}" for t in tables if t.rows]
    return "\n".join(parts)


def image_record(view: ImagesView) -> dict[str, object]:
    """Every test as report.json holds it, a record a seed."""
    return {
        "claim": claim(view),
        "reason": view.reason,
        "only_test": view.only_test,
        "left_out": dict(view.left_out),
        "mcnemar": [_pair_record(pair) for pair in view.pairs],
        "cochran": [_omnibus_record(row) for row in view.omnibus],
    }


def _one_seed(pair: ImagePair) -> tuple[str, ...]:
    tested = pair.p is not None
    ps = (pair.p, pair.holm_p, pair.smallest_holm_p)
    return (
        pair.variant,
        pair.dataset,
        pair.target or NOT_KNOWN,
        _seed(pair.seed),
        str(pair.images) if tested else NOT_KNOWN,
        _count(pair.only_variant),
        _count(pair.only_baseline),
        points(pair.difference, sign=True),
        interval_text(pair.interval),
        *(p_text(p) if tested else NOT_KNOWN for p in ps),
        pair.reason,
    )


def _all_seeds(group: Sequence[ImagePair], alpha: float) -> tuple[str, ...]:
    """Seeds side by side, never added up: their images are the same ones."""
    tested = [pair for pair in group if pair.p is not None]
    reasons = "; ".join(dict.fromkeys(pair.reason for pair in group if pair.p is None))
    if not tested:
        return ("0", *(NOT_KNOWN,) * 6, reasons)
    gaps = [pair.difference for pair in tested if pair.difference is not None]
    shown = [pair for pair in tested if pair.holm_p is not None and pair.holm_p < alpha]
    more = sum(1 for pair in shown if (pair.difference or 0.0) > 0)
    return (
        str(len(tested)),
        _between([pair.images for pair in tested]),
        _between([pair.only_variant or 0 for pair in tested]),
        _between([pair.only_baseline or 0 for pair in tested]),
        " to ".join(dict.fromkeys(points(gap, sign=True) for gap in (min(gaps), max(gaps)))),
        f"{more} of {len(tested)}",
        f"{len(shown) - more} of {len(tested)}",
        reasons,
    )


def _one_omnibus(row: ImageOmnibus) -> tuple[str, ...]:
    return (
        row.dataset,
        row.target,
        _seed(row.seed),
        str(len(row.variants)),
        str(row.images),
        NOT_KNOWN if row.q is None else f"{row.q:.2f}",
        *(NOT_KNOWN if p is None else p_text(p) for p in (row.p, row.holm_p)),
        row.reason,
    )


def _all_omnibus(group: Sequence[ImageOmnibus], alpha: float) -> tuple[str, ...]:
    tested = [row for row in group if row.p is not None]
    reasons = "; ".join(dict.fromkeys(row.reason for row in group if row.p is None))
    models = _between([len(row.variants) for row in group])
    if not tested:
        return ("0", models, NOT_KNOWN, NOT_KNOWN, reasons)
    shown = sum(1 for row in tested if row.holm_p is not None and row.holm_p < alpha)
    qs = [row.q or 0.0 for row in tested]
    span = " to ".join(dict.fromkeys(f"{q:.2f}" for q in (min(qs), max(qs))))
    return (str(len(tested)), models, span, f"{shown} of {len(tested)}", reasons)


def _seed(seed: int | None) -> str:
    return NOT_KNOWN if seed is None else str(seed)


def _count(number: int | None) -> str:
    return NOT_KNOWN if number is None else str(number)


def _between(numbers: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(str(n) for n in (min(numbers), max(numbers))))


def _pair_record(pair: ImagePair) -> dict[str, object]:
    interval: Interval | None = pair.interval
    return {
        "variant": pair.variant,
        "dataset": pair.dataset,
        "target": pair.target,
        "seed": pair.seed,
        "images": pair.images,
        "only_variant": pair.only_variant,
        "only_baseline": pair.only_baseline,
        "difference": rounded(pair.difference),
        "interval_low": rounded(interval.low) if interval else None,
        "interval_high": rounded(interval.high) if interval else None,
        "p": rounded_p(pair.p),
        "holm_p": rounded_p(pair.holm_p),
        "smallest_holm_p": rounded_p(pair.smallest_holm_p),
        "reason": pair.reason,
    }


def _omnibus_record(row: ImageOmnibus) -> dict[str, object]:
    return {
        "dataset": row.dataset,
        "target": row.target,
        "seed": row.seed,
        "variants": list(row.variants),
        "images": row.images,
        "q": rounded(row.q),
        "p": rounded_p(row.p),
        "holm_p": rounded_p(row.holm_p),
        "reason": row.reason,
    }

"""A methods paragraph for a paper, made from what the report did, and its references."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from analysis.read.results import Results
from analysis.sections.comparisons import Block, Options
from analysis.text import counted, label

BIBLIOGRAPHY = Path(__file__).resolve().parents[1] / "render" / "templates" / "references.bib"


class Reference(NamedTuple):
    """A citation: its key, its text, and the BibTeX entry."""

    key: str
    text: str
    bibtex: str


class MethodsText(NamedTuple):
    """Sentences with keys in brackets, such as [demsar2006], and the references they cite."""

    sentences: tuple[str, ...]
    references: tuple[Reference, ...]

    @property
    def paragraph(self) -> str:
        """The sentences as one paragraph with numbers for keys."""
        text = " ".join(self.sentences)
        for number, reference in enumerate(self.references, start=1):
            text = text.replace(f"[{reference.key}]", f"[{number}]")
        return text

    @property
    def latex(self) -> str:
        r"""The sentences with \cite commands; nothing else is escaped yet."""
        return re.sub(r" \[([a-z]+\d{4})\]", r"~\\cite{\1}", " ".join(self.sentences))


@functools.cache
def known_references() -> dict[str, Reference]:
    """Every entry of references.bib by its key."""
    found = {}
    for entry in BIBLIOGRAPHY.read_text(encoding="utf-8").split("\n\n"):
        match = re.match(r"@\w+\{(\w+),", entry.strip())
        assert match is not None, entry
        fields = dict(re.findall(r"(\w+) = \{+(.*?)\}+,?\n", entry))
        where = fields.get("journal") or fields["booktitle"]
        authors = fields["author"].replace(" and ", ", ").replace(", others", " et al.")
        text = f"{authors}. {fields['title'].rstrip('?.')}. {where}, {fields['year']}."
        found[match[1]] = Reference(match[1], text, entry.strip() + "\n")
    return found


def methods_text(
    results: Results,
    blocks: Sequence[Block],
    options: Options,
    *,
    attribution: bool,
    profiles: bool,
    images: bool,
) -> MethodsText:
    """What was measured, how it was compared, and what was not claimed."""
    sentences = [_design(results), *_tests(results, blocks, options), _intervals(options)]
    if {"base", "new"} <= set(results.metrics):
        sentences.append(
            "HM is the harmonic mean of base and new accuracy of each run [xian2017]; the harmonic "
            "mean of the average accuracies is given beside it."
        )
    if attribution:
        sentences.append(
            "The gain of the full model over the model with all parts off is divided among the "
            "parts by exact Shapley values [shapley1953]; interactions are Möbius coefficients "
            "[grabisch1999]."
        )
    if profiles:
        sentences.append(
            "Interquartile means and performance profiles follow Agarwal et al. [agarwal2021]."
        )
    if images:
        sentences.append(
            "The trained models themselves are compared on the same test images by McNemar's exact "
            "test [mcnemar1947] with Holm's correction over the variants of a target, and by "
            "Cochran's Q [cochran1950]; this says nothing about the methods."
        )
    text = " ".join(sentences)
    keys = dict.fromkeys(re.findall(r"\[([a-z]+\d{4})\]", text))
    known = known_references()
    return MethodsText(tuple(sentences), tuple(known[key] for key in keys))


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
    text += f"; reported weights: {', '.join(ends)}" if ends else ""
    missing = len(results.problems)
    gap = (
        f" {counted(missing, 'planned cell')} had no usable score and enter no mean."
        if missing
        else ""
    )
    return (
        f"{text}. Runs with the same dataset and seed are paired: they share training images, "
        f"their order and the initialization as far as the runs were made that way.{gap}"
    )


def _tests(results: Results, blocks: Sequence[Block], options: Options) -> list[str]:
    metric = results.primary_metric
    names = {b.primary[metric].name for b in blocks if metric in b.primary}
    texts = {
        "wilcoxon": "an exact Wilcoxon signed-rank test with Pratt's zeros over dataset means "
        "[wilcoxon1945] [pratt1959]",
        "t": "a paired t test over dataset means",
        "t_each": "a paired t test over seeds in every dataset, an effect being decided where all "
        "datasets show it [dror2017]",
        "t_seeds": "a paired t test over the seeds of the one dataset",
        "t_corrected": "a corrected resampled t test over the resamples of the one dataset",
    }
    tests = " and ".join(texts[name] for name in sorted(names) if name in texts)
    if not tests:
        return ["No test is made: there is at most one paired run."]
    if names & {"wilcoxon", "t"}:
        scope = "The sample are the datasets, not the seeds [demsar2006]."
    elif "t_each" in names:
        scope = "Claims are about these datasets alone, which are too few for a wider one."
    else:
        scope = "There is one dataset: claims are about it alone."
    return [
        scope,
        f"The test was chosen from the numbers of datasets, seeds and comparisons before any score "
        f"was seen: {tests}, on {label(metric)}, two-sided, with Holm's correction over all "
        f"comparisons with a reference [holm1979] at alpha {options.alpha:g}.",
        *_overlap(options),
        "Pairs are never compared by mean ranks, which depend on the other methods in the table "
        "[benavoli2016].",
        f"A difference is called equivalent when two one-sided tests [schuirmann1987] place it "
        f"within {100 * options.rope:g} points of zero; what is neither is called undecided.",
        "Bayesian signed-rank posteriors [benavoli2017], the number of datasets with a shown "
        "effect [dror2017] and the probability of outperforming [bouthillier2021] are given too.",
    ]


def _overlap(options: Options) -> list[str]:
    if options.overlap is None:
        return []
    return [
        f"The seeds are resamples that share data ({options.overlap:.4g} test images for each "
        "training image): tests over seeds use the variance factor 1/n + test/train "
        "[nadeau2003]."
    ]


def _intervals(options: Options) -> str:
    return (
        f"Intervals are 95 % paired bootstrap intervals ({options.reps:,} repetitions, generator "
        f"seed {options.rng_seed}): over seeds for claims on these datasets, over datasets and "
        "seeds for claims on datasets like these."
    )

"""Sentences that say which part helped, by how much and with what certainty, made from the numbers
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.compare import Block, Comparison
from analysis.results import Results
from analysis.tables import interval_text, label, p_text, points

OFF_PREFIXES = ("@No", "@Null")
MAX_SENTENCES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """``kind`` is better, worse, undecided or note; it chooses the colour on the page."""

    kind: str
    text: str


def headline(results: Results, blocks: Sequence[Block]) -> tuple[Sentence, ...]:
    """What the comparisons of the primary metric say, block by block."""
    if len(results.variants) < 2:
        return (
            Sentence(kind="note", text="One variant only: nothing to compare. Add a second one."),
        )
    sentences = [s for block in blocks for s in _block(results, block)]
    if all(name.startswith("mosaic/") for name in results.datasets):
        sentences.append(Sentence(kind="note", text=EMBEDDED_CAVEAT))
    return tuple(sentences)


EMBEDDED_CAVEAT = "Results on the embedded benchmark show that the machinery works, not that a method is good on photographs."


def _block(results: Results, block: Block) -> list[Sentence]:
    metric = results.primary_metric
    family = [c for c in block.comparisons[metric] if c.difference is not None]
    if not family:
        return [Sentence(kind="note", text=f"Nothing can be compared with {block.reference}.")]
    decided = sorted(
        (c for c in family if c.verdict in ("better", "worse")),
        key=lambda c: (-abs(c.difference or 0.0), c.variant),
    )
    sentences = [_decided(results, c) for c in decided[:MAX_SENTENCES]]
    if rest := ", ".join(f"{c.variant} ({c.verdict})" for c in decided[MAX_SENTENCES:]):
        sentences.append(Sentence(kind="note", text=f"Also decided, see the table: {rest}."))
    undecided = [c for c in family if c.verdict == "undecided"]
    if undecided:
        sentences.append(_undecided(block, metric, undecided))
    return sentences


def _decided(results: Results, c: Comparison) -> Sentence:
    assert c.difference is not None
    size = points(abs(c.difference))
    certainty = f"95 % interval {interval_text(c.interval)}, Holm-adjusted p {_equals(c.holm_p)}"
    if part := removed_part(results, c):
        verb = "costs" if c.difference < 0 else "gains"
        text = (
            f"Taking {part} out of {c.reference} ({c.variant}) {verb} {size} points of "
            f"{label(c.metric)} ({certainty})."
        )
    else:
        text = (
            f"{c.variant} is {c.verdict} than {c.reference} by {size} points of {label(c.metric)} "
            f"({certainty})."
        )
    return Sentence(kind=c.verdict, text=text + _scope(c))


def _scope(c: Comparison) -> str:
    if c.decided_by == "t_seeds":
        return " One dataset: the claim is about that dataset alone."
    if c.num_datasets < 6:
        return f" Only {c.num_datasets} datasets: descriptive, not a claim about other datasets."
    return ""


def _undecided(block: Block, metric: str, family: Sequence[Comparison]) -> Sentence:
    shown = ", ".join(
        f"{c.variant} {points(c.difference, sign=True)}"
        + (f" {interval_text(c.interval)}" if c.interval else "")
        for c in family
    )
    return Sentence(
        kind="undecided",
        text=f"Undecided against {block.reference} ({label(metric)}, points): {shown}. "
        "This is not evidence of no difference.",
    )


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


def _equals(p: float | None) -> str:
    text = p_text(p)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"

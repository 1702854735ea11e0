"""The report as Markdown, for a pull request or an appendix. Depends on the scores alone, never on
costs.
"""

from collections.abc import Callable, Sequence

from analysis.read.results import Results
from analysis.read.shot_curves import curve_text
from analysis.sections.comparisons import Block
from analysis.sections.design import Fact
from analysis.sections.further_text import Box
from analysis.sections.headline import Sentence
from analysis.sections.methods_paragraph import MethodsText
from analysis.sections.tables import (
    AVERAGE,
    MainTable,
    TextTable,
    cell_text,
    comparison_text,
    escape_markdown,
    main_text,
)

Standing = Callable[[str, str], str]
MARKS = "† significantly worse than the best, ≈ practically equal to it, on average over datasets."


def report_markdown(
    results: Results,
    table: MainTable,
    blocks: Sequence[Block],
    boxes: Sequence[Box],
    sentences: Sequence[Sentence],
    design: Sequence[Fact],
    methods: MethodsText,
    standing: Standing,
    *,
    images: str,
    variance: TextTable | None,
) -> str:
    """Headline, design, main table, comparisons, further tests, problems, notes and methods.

    ``standing`` gives the mark of (variant, metric) in the average columns, ``images`` is the
    section about single images, ``variance`` the shares of variance of a toggle grid.
    """
    parts = [f"# {escape_markdown(results.name)}\n"]
    parts.append("".join(f"* {escape_markdown(s.text)}\n" for s in sentences))
    parts.append("## Design\n")
    rows = tuple((f.term, f.text) for f in design)
    parts.append(_left(TextTable(title="", header=("What", "How"), rows=rows).to_markdown()))
    parts.append(
        f"## Results\n\n{main_text(table).title}. Best in bold, second in italics. {MARKS}\n"
    )
    parts.append(_main_markdown(table, standing))
    if curve := curve_text(results, table):
        parts.append(f"## {curve.title}\n\n{curve.to_markdown()}")
    for block in blocks:
        parts.append(f"## Against {escape_markdown(block.reference)}\n")
        parts.extend(_family(block, metric) for metric in block.comparisons)
    parts.append(images)
    parts.append("## Further tests\n\nNo verdict rests on them.\n")
    parts.extend(_box(box) for box in boxes)
    if variance:
        parts.append(f"## {variance.title}\n\n{variance.to_markdown()}")
    if results.problems:
        parts.append("## Cells without a score\n")
        parts.append("".join(f"* {escape_markdown(str(p))}\n" for p in results.problems))
    notes = [*(f"{v}: {text}" for v, text in results.inert.items()), *results.notes]
    if notes:
        parts.append("## Notes\n")
        parts.append("".join(f"* {escape_markdown(n)}\n" for n in notes))
    references = "".join(f"{i}. {r.text}\n" for i, r in enumerate(methods.references, start=1))
    parts.append(f"## Methods\n\n{escape_markdown(methods.paragraph)}\n\n{references}")
    return "\n".join(parts)


def _left(markdown: str) -> str:
    return markdown.replace("--:|", ":--|")


def _box(box: Box) -> str:
    says = [f"Not applicable: {box.reason}."] if box.reason else [*box.sentences]
    text = f"**{escape_markdown(box.title)}** {escape_markdown(' '.join(says))}\n"
    return text if box.table is None else f"{text}\n{box.table.to_markdown()}"


def _family(block: Block, metric: str) -> str:
    if not block.comparisons[metric]:
        return "No other variant.\n"
    text = comparison_text(block, metric)
    decides = ""
    if metric in block.primary:
        decides = f" Test that decides: {escape_markdown(block.primary[metric].reason)}."
    return f"**{escape_markdown(text.title)}.**{decides}\n\n{text.to_markdown()}"


def _main_markdown(table: MainTable, standing: Standing) -> str:
    """The main table with its marks, which escaping must not touch."""
    plain = main_text(table).to_markdown().splitlines()
    lines = plain[:2]
    for variant, line in zip(table.variants, plain[2:], strict=True):
        head = line.split(" | ")[:2]
        cells = []
        for dataset, metric in table.columns:
            cell = table.cells[variant, dataset, metric]
            mark = {"best": "**", "second": "*"}.get(cell.mark, "")
            stands = standing(variant, metric) if dataset == AVERAGE else ""
            cells.append(f"{mark}{cell_text(cell)}{mark}{stands}")
        lines.append(" | ".join([*head, *cells]) + " |")
    return "\n".join(lines) + "\n"

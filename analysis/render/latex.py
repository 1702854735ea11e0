r"""The report as LaTeX: booktabs tables, figures and the methods paragraph; compiles as it is.

``pdflatex report.tex``, twice for the citations, needs nothing else: the references are in it.
Every text that comes from outside is escaped, and nothing else is trusted to be harmless: a name
such as ``50% of_A & \input{x}`` prints as it is written.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from analysis.figures.figure import Figure
from analysis.read.results import Results
from analysis.render.latex_text import breakable, escape, unknown_letters
from analysis.sections.comparisons import Block, Comparison
from analysis.sections.further_text import Box
from analysis.sections.headline import Sentence
from analysis.sections.methods_paragraph import MethodsText
from analysis.sections.tables import AVERAGE, Cell, MainTable
from analysis.text import interval_text, label, p_text, points

MAX_COLUMNS = 8
"""Datasets beside each other at most: more go into a second table."""
MAX_ROWS = 45
"""Variants below each other at most, so that a table fits on a page."""

PREAMBLE = r"""% pdflatex report.tex, twice; references.bib has the same references for BibTeX
\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[margin=2cm]{geometry}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\emergencystretch=3em
\setlength{\belowcaptionskip}{6pt}
\newsavebox{\drawn}
\newcommand{\fitted}[1]{% no larger than it was drawn, no larger than the page
  \sbox{\drawn}{\includegraphics{#1}}%
  \ifdim\wd\drawn>\linewidth
    \includegraphics[width=\linewidth,height=.8\textheight,keepaspectratio]{#1}%
  \else\ifdim\ht\drawn>.8\textheight
    \includegraphics[height=.8\textheight]{#1}%
  \else\usebox{\drawn}\fi\fi}
\begin{document}
"""

Standing = Callable[[str, str], str]
Item = TypeVar("Item")


def report_latex(
    results: Results,
    table: MainTable,
    blocks: Sequence[Block],
    boxes: Sequence[Box],
    sentences: Sequence[Sentence],
    methods: MethodsText,
    figures: Iterable[Figure],
    standing: Standing,
) -> str:
    """A whole document: headline, main table, comparisons, further tests, methods, figures,
    references.

    ``standing`` gives the mark of (variant, metric) in the average column.
    """
    parts = [PREAMBLE, rf"\section*{{{escape(results.name)}}}"]
    parts.append(_items(s.text for s in sentences))
    parts.append(_letters(results))
    parts.append(main_latex(table, standing))
    parts += [comparison_latex(b, m) for b in blocks for m in b.comparisons if b.comparisons[m]]
    parts.append(r"\clearpage")
    parts.append(r"\section*{Further tests}" + "\n" + _items(map(_box, boxes)))
    parts.append(r"\section*{Methods}" + "\n" + _cited(methods) + "\n")
    parts += [_figure(p) for p in figures]
    parts.append(r"\clearpage")
    parts.append(_bibliography(methods))
    return "\n".join(parts) + "\\end{document}\n"


def _items(texts: Iterable[str]) -> str:
    lines = [rf"\item {breakable(t)}" for t in texts]
    return "\n".join([r"\begin{itemize}", *lines, r"\end{itemize}"]) if lines else ""


def _letters(results: Results) -> str:
    """Says which letters of the names are written as code points, where there are such."""
    unknown = unknown_letters((results.name, *results.variants, *results.datasets))
    if not unknown:
        return ""
    codes = ", ".join(f"[U+{ord(letter):04X}]" for letter in unknown)
    return (
        rf"\noindent\small {escape(f'Letters that these fonts lack: {codes}.')}\normalsize" + "\n"
    )


def _box(box: Box) -> str:
    """A further test in sentences; its table is on the page and in report.md."""
    says = [f"not applicable: {box.reason}."] if box.reason else box.sentences
    return f"{box.title.removesuffix('?')}: {' '.join(says)}"


def _cited(methods: MethodsText) -> str:
    text = escape(methods.latex)
    for reference in methods.references:
        command = escape(rf"~\cite{{{reference.key}}}")
        text = text.replace(command, rf"~\cite{{{reference.key}}}")
    return text


def main_latex(table: MainTable, standing: Standing) -> str:
    """One booktabs table a metric: rows variants, columns datasets, the average first."""
    metrics = dict.fromkeys(m for _, m in table.columns)
    return "\n".join(_metric_table(table, metric, standing) for metric in metrics)


def _metric_table(table: MainTable, metric: str, standing: Standing) -> str:
    """One table, or several where it is wider than a page."""
    known = [d for d in table.datasets if metric in table.metrics[d]]
    caption = (
        f"{label(metric)}, accuracy in percent, mean ± half width of the 95 % t interval over "
        "seeds. Bold: highest, underlined: second. † significantly worse than the best, ≈ "
        "practically equal to it, on average over datasets."
    )
    made = []
    groups = _even(known, MAX_COLUMNS)
    for number, datasets in enumerate(groups, start=1):
        rows = []
        for v in table.variants:
            marks = [standing(v, metric) if d == AVERAGE else "" for d in datasets]
            cells = [
                _cell(table.cells[v, d, metric], m) for d, m in zip(datasets, marks, strict=True)
            ]
            rows.append([escape(v), *cells])
        which = f" Datasets: {number} of {len(groups)}." if len(groups) > 1 else ""
        made.append(_table(["Variant", *map(escape, datasets)], rows, caption + which))
    return "\n".join(made)


def _even(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """The items in as few groups of at most ``most`` as can be, of about one size."""
    num = max(1, -(-len(items) // most))
    ends = [len(items) * i // num for i in range(num + 1)]
    return [items[a:b] for a, b in itertools.pairwise(ends)]


def _cell(cell: Cell, mark: str) -> str:
    if cell.mean is None:
        return "--"
    text = points(cell.mean)
    text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}"}.get(cell.mark, text)
    width = "" if cell.half_width is None else rf" {{\scriptsize$\pm${points(cell.half_width)}}}"
    return text + escape(mark) + width


def comparison_latex(block: Block, metric: str) -> str:
    """Differences from one reference on one metric."""
    head = ["Variant", "Difference", "95 \\% like these", "95 \\% these", "$p$ Holm", "W/T/L"]
    rows = [_comparison(c) for c in block.comparisons[metric]]
    caption = (
        f"{label(metric)}: difference from {block.reference} in points, with 95 % intervals for "
        "datasets like these and for these datasets, and the verdict."
    )
    return _table([*head, "Verdict"], rows, caption)


def _comparison(c: Comparison) -> list[str]:
    if c.difference is None:
        return [escape(c.variant), *["--"] * 5, escape(c.reason or c.verdict)]
    return [
        escape(c.variant),
        _minus(points(c.difference, sign=True)),
        _minus(interval_text(c.two_level)),
        _minus(interval_text(c.seeds_only)),
        escape(p_text(c.holm_p)),
        f"{c.wins}/{c.ties}/{c.losses}",
        escape(c.verdict),
    ]


def _minus(text: str) -> str:
    return "--" if text == "-" else text.replace("-", "$-$")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table that shrinks to the width of the text where it is wider, or several where it is
    longer than a page.
    """
    groups = _even(rows, MAX_ROWS)
    return "\n".join(
        _page_table(head, group, caption + (f" Rows, part {i} of {len(groups)}." if i else ""))
        for i, group in enumerate(groups, start=1 if len(groups) > 1 else 0)
    )


def _page_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    columns = "l" + "r" * (len(head) - 1)
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\small",
        rf"\caption{{{escape(caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _figure(figure: Figure) -> str:
    """The PDF beside the document; the document compiles without it too."""
    path = f"figures/{figure.name}.pdf"
    lines = [
        r"\begin{figure}[htbp]",
        r"\centering",
        rf"\IfFileExists{{{path}}}{{\fitted{{{path}}}}}{{}}",
        rf"\caption{{{escape(figure.caption)}}}",
        r"\end{figure}",
    ]
    return "\n".join(lines) + "\n"


def _bibliography(methods: MethodsText) -> str:
    entries = [rf"\bibitem{{{r.key}}} {escape(r.text)}" for r in methods.references]
    if not entries:
        return ""
    return "\n".join([r"\begin{thebibliography}{99}", *entries, r"\end{thebibliography}"]) + "\n"

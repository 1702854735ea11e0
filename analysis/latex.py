r"""The report as LaTeX: booktabs tables, figures and the methods paragraph; compiles as it is.

Every text that comes from outside is escaped, and nothing else is trusted to be harmless: a name
such as ``50% of_A & \input{x}`` prints as it is written.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence

from analysis.compare import Block, Comparison
from analysis.figures.style import Picture
from analysis.headline import Sentence
from analysis.methods_text import MethodsText
from analysis.results import Results
from analysis.tables import (
    AVERAGE,
    Cell,
    MainTable,
    interval_text,
    label,
    p_text,
    points,
)

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "≈": r"$\approx$",
    "†": r"\dag{}",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "α": r"$\alpha$",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "–": "--",
    "—": "---",
    "’": "'",
    "“": "``",
    "”": "''",
}

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[margin=2cm]{geometry}
\begin{document}
"""

Standing = Callable[[str, str], str]


def escape(text: str) -> str:
    """Text that LaTeX prints as it is written; a letter that the fonts lack becomes its name."""
    return "".join(SPECIAL.get(c) or _plain(c) for c in text)


def _plain(letter: str) -> str:
    """The letter where the Latin fonts have it, otherwise its code point in words."""
    if letter == "\n" or letter == "\t":
        return " "
    if unicodedata.category(letter).startswith("C"):
        return ""
    if ord(letter) < 0x180:
        return letter
    return f"[U+{ord(letter):04X}]"


def report_latex(
    results: Results,
    table: MainTable,
    blocks: Sequence[Block],
    sentences: Sequence[Sentence],
    methods: MethodsText,
    pictures: Iterable[Picture],
    standing: Standing,
) -> str:
    """A whole document: headline, main table, comparisons, methods, figures, references.

    ``standing`` gives the mark of (variant, metric) in the average column.
    """
    parts = [PREAMBLE, rf"\section*{{{escape(results.name)}}}"]
    parts.append(_items(s.text for s in sentences))
    parts.append(main_latex(table, standing))
    parts += [comparison_latex(b, m) for b in blocks for m in b.comparisons if b.comparisons[m]]
    parts.append(r"\section*{Methods}" + "\n" + _cited(methods) + "\n")
    parts += [_figure(p) for p in pictures]
    parts.append(_bibliography(methods))
    return "\n".join(parts) + "\\end{document}\n"


def _items(texts: Iterable[str]) -> str:
    lines = [rf"\item {escape(t)}" for t in texts]
    return "\n".join([r"\begin{itemize}", *lines, r"\end{itemize}"]) if lines else ""


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
    datasets = [d for d in table.datasets if metric in table.metrics[d]]
    head = ["Variant", *(escape(d) for d in datasets)]
    rows = []
    for variant in table.variants:
        mark = standing(variant, metric)
        cells = [
            _cell(table.cells[variant, d, metric], mark if d == AVERAGE else "") for d in datasets
        ]
        rows.append([escape(variant), *cells])
    caption = (
        f"{label(metric)}, accuracy in percent, mean ± half width of the 95 % t interval over "
        "seeds. Bold: highest, underlined: second. † significantly worse than the best, ≈ "
        "practically equal to it, on average over datasets."
    )
    return _table(head, rows, caption)


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
    """A table that shrinks to the width of the text where it is wider."""
    columns = "l" + "r" * (len(head) - 1)
    lines = [
        r"\begin{table}[p]",
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


def _figure(picture: Picture) -> str:
    """The PDF beside the document; the document compiles without it too."""
    path = f"figures/{picture.name}.pdf"
    lines = [
        r"\begin{figure}[p]",
        r"\centering",
        rf"\IfFileExists{{{path}}}{{%",
        rf"\resizebox{{\linewidth}}{{!}}{{\includegraphics{{{path}}}}}}}{{}}",
        rf"\caption{{{escape(picture.caption)}}}",
        r"\end{figure}",
    ]
    return "\n".join(lines) + "\n"


def _bibliography(methods: MethodsText) -> str:
    entries = [rf"\bibitem{{{r.key}}} {escape(r.text)}" for r in methods.references]
    if not entries:
        return ""
    return "\n".join([r"\begin{thebibliography}{99}", *entries, r"\end{thebibliography}"]) + "\n"

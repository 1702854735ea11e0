r"""The report as LaTeX: booktabs tables, figures and the methods paragraph; compiles as it is.

``pdflatex report.tex``, twice for the citations, needs nothing else: the references are in it.
Every text that comes from outside is escaped, and nothing else is trusted to be harmless: a name
such as ``50% of_A & \input{x}`` prints as it is written.
"""

import itertools
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from analysis.figures.figure import Figure
from analysis.render.latex_text import breakable, escape, unknown_letters
from analysis.render.terminal import row_notes
from analysis.sections.section import (
    Chapter,
    Citation,
    Header,
    Section,
    Sentence,
    cited,
)
from analysis.text import (
    NO_VALUE,
    Column,
    Kind,
    Linked,
    MeanScore,
    Name,
    Show,
    Table,
    cell_text,
    closed,
    points,
)

MAX_COLUMNS = 8
"""Most columns of numbers in one table: more go into a second one."""
MAX_ROWS = 45
"""Most rows in one table, so that it fits on a page."""
LEGEND = "Bold: highest; underlined: second highest."

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

Item = TypeVar("Item")


def report_latex(header: Header, chapters: Sequence[Chapter[Any]], names: Sequence[str]) -> str:
    """A whole document; ``names`` are those that come from outside."""
    works = cited(chapters)
    parts = [PREAMBLE, rf"\section*{{{escape(header.title)}}}", _letters([header.title, *names])]
    for chapter in chapters:
        sections = [text for s in chapter.visible_in(Show.PAPER) if (text := _section(s))]
        if sections:
            parts += [rf"\section*{{{escape(chapter.title)}}}"] if chapter.title else []
            parts += [*sections, r"\clearpage" if r"\begin{table}" in "".join(sections) else ""]
    parts.append(_bibliography(works))
    return "\n".join(part for part in parts if part) + "\\end{document}\n"


def _section(section: Section) -> str:
    """What a section says, its tables and figures; "" where nothing of it is for paper."""
    parts = []
    for listed, group in itertools.groupby(section.sentences, attrgetter("listed")):
        texts = [_sentence(sentence) for sentence in group]
        parts.append(_items(texts) if listed else " ".join(texts) + "\n")
    parts += [_table(found) for t in section.tables if (found := t.visible_in(Show.PAPER))]
    parts += [_figure(figure) for figure in section.figures]
    if not parts:
        return ""
    heading = [rf"\subsection*{{{escape(section.title)}}}"] if section.title else []
    return "\n".join([*heading, *parts])


def _sentence(sentence: Sentence) -> str:
    return "".join(
        breakable(piece) if isinstance(piece, str) else rf"~\cite{{{piece.key}}}"
        for piece in sentence.pieces
    )


def _items(texts: Iterable[str]) -> str:
    lines = [rf"\item {text}" for text in texts]
    return "\n".join([r"\begin{itemize}", *lines, r"\end{itemize}"])


def _letters(names: Sequence[str]) -> str:
    """States which letters of the names are written as code points, if any."""
    unknown = unknown_letters(names)
    if not unknown:
        return ""
    codes = ", ".join(f"[U+{ord(letter):04X}]" for letter in unknown)
    return (
        rf"\noindent\small {escape(f'Letters that these fonts lack: {codes}.')}\normalsize" + "\n"
    )


def _table(found: Table) -> str:
    """A table, or several where it is wider or longer than a page."""
    columns = [i for i, c in enumerate(found.columns) if c.kind is not Kind.NOTE]
    names = list(itertools.takewhile(lambda i: found.columns[i].words, columns)) or columns[:1]
    wide, long = _even(columns[len(names) :], MAX_COLUMNS), _even(found.rows, MAX_ROWS)
    made = []
    for (w, part), (h, rows) in itertools.product(enumerate(wide, 1), enumerate(long, 1)):
        which = f" Columns, part {w} of {len(wide)}." if len(wide) > 1 else ""
        which += f" Rows, part {h} of {len(long)}." if len(long) > 1 else ""
        made.append(_page_table(found, [*names, *part], rows, _caption(found) + which))
    notes = [breakable(note.strip()) for note in row_notes(found)]
    return "\n".join([*made, *([_items(notes)] if notes else [])])


def _caption(found: Table) -> str:
    legend = [LEGEND] if any(c.kind is Kind.SCORE for c in found.columns) else []
    return " ".join([closed(found.title), *legend, *found.notes])


def _even(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """The items in as few groups of at most ``most`` as possible, of similar size."""
    num = max(1, -(-len(items) // most))
    ends = [len(items) * i // num for i in range(num + 1)]
    return [items[a:b] for a, b in itertools.pairwise(ends)]


def _page_table(
    found: Table, kept: Sequence[int], rows: Sequence[tuple[Any, ...]], caption: str
) -> str:
    """A table that shrinks to the width of the text where it is wider."""
    columns = [found.columns[i] for i in kept]
    head = [escape(f"{c.group} {c.title}".strip()) for c in columns]
    body = [[_cell(row[i], found.columns[i]) for i in kept] for row in rows]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\small",
        rf"\caption{{{escape(caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('l' if c.words else 'r' for c in columns)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any, column: Column[Any]) -> str:
    value = value.value if isinstance(value, Linked) else value
    if isinstance(value, MeanScore):
        return _score(value)
    text = cell_text(value, column.kind)
    if text == NO_VALUE and not isinstance(value, str | Name):
        return "--"
    if column.words or isinstance(value, str):
        return escape(text)
    return escape(text.replace("-", "−"))


def _score(score: MeanScore) -> str:
    if score.mean is None:
        return "--"
    text = points(score.mean)
    text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}"}.get(score.mark, text)
    half = score.half_width
    width = "" if half is None else rf" {{\scriptsize$\pm${points(half)}}}"
    return text + escape(score.standing) + width


def _figure(figure: Figure) -> str:
    """The PDF next to the document, which also compiles without it."""
    path = f"figures/{figure.name}.pdf"
    lines = [
        r"\begin{figure}[htbp]",
        r"\centering",
        rf"\IfFileExists{{{path}}}{{\fitted{{{path}}}}}{{}}",
        rf"\caption{{{escape(figure.caption)}}}",
        r"\end{figure}",
    ]
    return "\n".join(lines) + "\n"


def _bibliography(works: Sequence[Citation]) -> str:
    entries = [rf"\bibitem{{{work.key}}} {escape(work.text)}" for work in works]
    if not entries:
        return ""
    return "\n".join([r"\begin{thebibliography}{99}", *entries, r"\end{thebibliography}"]) + "\n"

"""The structure of a report: chapters of sections, where a section covers one topic.

Each file of this folder computes the numbers of one topic and presents them as sentences, typed
tables and figures. It declares a ``Topic``; ``analysis/report.py`` holds the list that orders the
topics. A new statistic is a function in ``stats/`` and one such file.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from analysis.figures.figure import Figure
from analysis.text import VERDICT_MARKS, Column, Show, Table

BIBLIOGRAPHY = Path(__file__).parent / "references.bib"

ARXIV = re.compile(r"arXiv[ :]+(\d{4}\.\d{4,5})")

FINDINGS: Mapping[str, str] = {
    **VERDICT_MARKS,
    "flag": "⚑",
    "note": "!",
}
"""The kinds of sentences that are findings, with their marks."""


class Citation(NamedTuple):
    """A cited work: its key, its text, the BibTeX entry, and its arXiv identifier."""

    key: str
    text: str
    bibtex: str
    eprint: str = ""


@functools.cache
def known_citations() -> Mapping[str, Citation]:
    """Every entry of references.bib by its key."""
    found = {}
    for entry in BIBLIOGRAPHY.read_text(encoding="utf-8").split("\n\n"):
        match = re.match(r"@\w+\{(\w+),", entry.strip())
        assert match is not None, entry
        fields = dict(re.findall(r"(\w+) = \{+(.*?)\}+,?\n", entry))
        where = fields.get("journal") or fields["booktitle"]
        authors = fields["author"].replace(" and ", ", ").replace(", others", " et al.")
        text = f"{authors.rstrip('.')}. {fields['title'].rstrip('?.')}. {where}, {fields['year']}."
        eprint = fields.get("eprint", "")
        found[match[1]] = Citation(match[1], text, entry.strip() + "\n", eprint)
    return found


def cite_source(name: str, source: str) -> tuple[Citation, ...]:
    """The works that the source of a class names by their arXiv identifiers.

    One that references.bib lacks, such as that of a plug-in, is cited by the text of the source.
    """
    known = {work.eprint: work for work in known_citations().values() if work.eprint}
    found = dict.fromkeys(ARXIV.findall(source))
    return tuple(known.get(eprint) or _unlisted(name, source, eprint) for eprint in found)


def _unlisted(name: str, source: str, eprint: str) -> Citation:
    key = re.sub(r"\W", "", name).lower() + eprint.replace(".", "")
    title = re.sub(r"[{}\\%#$&~^_]", " ", source)
    lines = [f"title = {{{{{title}}}}}", f"eprint = {{{eprint}}}", "archiveprefix = {arXiv}"]
    return Citation(key, source, f"@misc{{{key},\n  " + ",\n  ".join(lines) + "\n}\n", eprint)


def cite(key: str) -> Citation:
    """A work by its key in references.bib."""
    return known_citations()[key]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a section, in pieces of text and the works cited between them.

    ``kind``: one of ``FINDINGS``, plain (running text), item (a line of a list) or paper (a part of
    the methods paragraph).
    """

    pieces: tuple[str | Citation, ...]
    kind: str = "plain"

    @property
    def text(self) -> str:
        """The sentence without its citations."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))

    @property
    def listed(self) -> bool:
        """Whether it is an item of a list and not running text."""
        return self.kind in FINDINGS or self.kind == "item"

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The works that it cites, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Citation))


def make_sentence(*pieces: str | Citation, kind: str = "plain") -> Sentence:
    """A sentence of these pieces."""
    return Sentence(pieces, kind)


def running_text(texts: Iterable[str]) -> tuple[Sentence, ...]:
    """Texts as running text."""
    return tuple(Sentence((text,)) for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Everything that a report says about one topic.

    ``reason`` says why the section does not apply, and is blank where it does. ``title`` is blank
    for a section that directly follows the heading of its chapter.
    """

    key: str
    title: str = ""
    sentences: tuple[Sentence, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    reason: str = ""
    show: Show = Show.ALL

    def table(self, key: str) -> Table:
        """The first table of this key."""
        return next(table for table in self.tables if table.key == key)

    @property
    def text(self) -> str:
        """All sentences as one paragraph."""
        return " ".join(sentence.text for sentence in self.sentences)


Source = TypeVar("Source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic(Generic[Source]):
    """A kind of section: the function that builds it, and the columns of its tables in files.

    ``build`` makes its sections from what the report is about: one, or one per reference.
    """

    key: str
    build: Callable[[Source], Sequence[Section]]
    files: Mapping[str, tuple[Column[Any], ...]] = field(default_factory=dict)
    show: Show = Show.ALL ^ Show.TERMINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter(Generic[Source]):
    """Topics under one heading, and their sections once they are built.

    ``nav`` names it in the navigation of the page where that differs from the title;
    ``side_by_side``: its sections are placed next to each other where there is room.
    ``detail``: it is among the details for a reviewer, folded on the page, where ``question`` says
    what it answers.
    """

    key: str
    title: str
    topics: tuple[Topic[Source], ...]
    nav: str = ""
    side_by_side: bool = False
    detail: bool = False
    question: str = ""
    sections: tuple[Section, ...] = ()

    def built(self, source: Source) -> "Chapter[Source]":
        """The chapter with its sections."""
        sections = [
            replace(section, show=topic.show)
            for topic in self.topics
            for section in topic.build(source)
        ]
        return replace(self, sections=tuple(sections))

    def visible_in(self, where: Show) -> tuple[Section, ...]:
        """The sections that apply and are shown there."""
        return tuple(s for s in self.sections if where in s.show and not s.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What precedes the chapters; ``identity`` is the beginning of report.json."""

    title: str
    product: str
    lead: str
    question: str = ""
    identity: Mapping[str, Any]
    closing: str
    links: tuple[str, ...] = ()


def left_out(chapters: Iterable[Chapter[Any]]) -> list[tuple[str, str]]:
    """Title and reason of every section that does not apply."""
    return [
        (section.title or chapter.title, section.reason)
        for chapter in chapters
        for section in chapter.sections
        if section.reason
    ]


def cited(chapters: Iterable[Chapter[Any]]) -> tuple[Citation, ...]:
    """Every cited work once, in the order of first citation, which numbers the works."""
    return tuple(
        dict.fromkeys(
            citation
            for chapter in chapters
            for section in chapter.sections
            for sentence in section.sentences
            for citation in sentence.citations
        )
    )


def numbered(sentence: Sentence, citations: Sequence[Citation]) -> str:
    """The sentence with the numbers of the works that it cites in brackets."""
    return "".join(
        piece if isinstance(piece, str) else f" [{citations.index(piece) + 1}]"
        for piece in sentence.pieces
    )

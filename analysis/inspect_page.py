"""The page of one run: what it has learned, as one self-contained file, pictures and numbers."""

from pathlib import Path

from analysis.figures.drawing import to_files
from analysis.render.html import render_page
from analysis.render.json_document import document, json_text
from analysis.sections.inspection import TOPICS, summary
from analysis.sections.section import Chapter, Header, Section, left_out
from analysis.text import Show, terms
from core.store.atomic import write_atomic
from core.store.inspection import Inspection
from core.store.names import INSPECTION_PAGE

SCHEMA_VERSION = 1
NUMBERS_NAME = "inspection.json"

CHAPTERS: tuple[Chapter[Inspection], ...] = tuple(
    Chapter(key=topic.key, title=title, nav=nav, topics=(topic,)) for title, nav, topic in TOPICS
)


def write_inspection(found: Inspection, out: Path) -> Path:
    """Write index.html, inspection.json and every figure as PNG into ``out``; returns the page."""
    chapters = [chapter.built(found) for chapter in CHAPTERS]
    absent = terms("not_applicable", "Not shown, and why", left_out(chapters))
    names = Section(key="not_applicable", tables=(absent,), show=Show.WIDE)
    last: Chapter[Inspection] = Chapter(
        key="not_shown", title="Not shown, and why", topics=(), sections=(names,)
    )
    header = _header(found)
    shown = (*chapters, *((last,) if absent.rows else ()))
    write_atomic(out / NUMBERS_NAME, json_text(document(header, chapters)))
    for chapter in chapters:
        for section in chapter.sections:
            for figure in section.figures:
                write_atomic(out / f"{figure.name}.png", to_files(figure, ["png"])["png"])
    write_atomic(out / INSPECTION_PAGE, render_page(header, shown))
    return out / INSPECTION_PAGE


def _header(found: Inspection) -> Header:
    record = found.record
    seed = "" if record.seed is None else f", seed {record.seed}"
    return Header(
        title=f"{record.variant} on {record.dataset}{seed}",
        product="RefineLab run",
        lead=f"{summary(found)} What this one model has learned; whether a part helps is a "
        "question for the report of a study.",
        identity={"schema_version": SCHEMA_VERSION, "run": record.identity},
        closing="Every figure is beside this page as PNG.",
        links=(NUMBERS_NAME,),
    )

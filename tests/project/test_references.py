"""Every class with a published source can be cited: one table of references has its works."""

import re

import pytest

import experiments.run.registered  # noqa: F401  (fills the registry)
from analysis.read.budgets import EARLIER_SOURCES
from analysis.sections.section import ARXIV, BIBLIOGRAPHY, cite_source, known_citations
from core.config import lookup, registered_classes

PUBLISHED = ("method", "refiner", "teacher", "cache", "aggregation", "alignment", "loss")
KINDS = (*PUBLISHED, "optimizer", "schedule", "augmentation")
CLASSES = [e for kind in KINDS for e in registered_classes(kind) if e.reference]
EPRINTS = {work.eprint: work for work in known_citations().values() if work.eprint}
OFF = re.compile(r"No[A-Z]\w+|NullRefiner")


@pytest.mark.parametrize("entry", CLASSES, ids=[entry.name for entry in CLASSES])
def test_the_works_of_a_source_are_in_the_table(entry):
    """Add an entry with this ``eprint`` to analysis/sections/references.bib."""
    missing = set(ARXIV.findall(entry.reference)) - set(EPRINTS)
    assert not missing, f"{entry.name} cites {sorted(missing)}, which references.bib lacks"
    assert entry.reference.startswith("ours") or ARXIV.search(entry.reference), (
        f"{entry.name}: name the arXiv identifier of its source, or say that it is ours"
    )


@pytest.mark.parametrize("kind", PUBLISHED)
def test_every_part_that_does_something_has_a_source(kind):
    lacking = [
        entry.name
        for entry in registered_classes(kind)
        if not entry.reference and not OFF.fullmatch(entry.name)
    ]
    assert not lacking, f"a docstring needs a line 'Source: ...': {lacking}"


def test_methods_of_earlier_runs_cite_what_their_docstrings_say():
    for name, source in EARLIER_SOURCES.items():
        assert cite_source(name, source) == cite_source(name, lookup(name).reference)[:1]


def test_entries_are_well_formed_and_their_identifiers_differ():
    text = BIBLIOGRAPHY.read_text(encoding="utf-8")
    assert len(known_citations()) == len(re.findall(r"^@\w+\{", text, re.MULTILINE))
    prints = re.findall(r"eprint = \{(.*?)\}", text)
    assert len(prints) == len(set(prints)) == len(EPRINTS)
    for work in EPRINTS.values():
        assert {"author", "title", "year"} <= set(re.findall(r"^  (\w+) = ", work.bibtex, re.M))
        year = int(re.search(r"year = \{(\d+)\}", work.bibtex)[1])
        assert 2000 + int(work.eprint[:2]) <= year, work.key  # published after the preprint


def test_a_source_outside_the_table_is_cited_by_its_text():
    source = "A. Author et al., A & B: {Prompts}, XCV 2031, arXiv 3101.00001."
    (work,) = cite_source("My Method", source)
    assert (work.key, work.eprint, work.text) == ("mymethod310100001", "3101.00001", source)
    assert work.bibtex.startswith("@misc{mymethod310100001,\n  title = {{A. Author et al., A")
    assert "&" not in work.bibtex and work.bibtex.count("{") == work.bibtex.count("}")
    assert cite_source("X", "ours; nothing published") == ()

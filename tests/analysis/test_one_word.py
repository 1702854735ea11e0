"""A pair of variants has one word per scope on the whole page, whichever section shows it."""

import itertools
import random

import pytest

from analysis.read.load import load_source
from analysis.read.reading import Reading
from analysis.read.study_folder import load_study
from analysis.read.toggle_grid import find_toggle_grid
from analysis.render.json_document import document
from analysis.report import CHAPTERS
from analysis.sections.analysis import Analysis, Options
from analysis.sections.section import Header
from analysis.text import VERDICT_MARKS
from tests.helpers.report_studies import leave_one_out_study, toggle_study
from tests.helpers.study_folders import make_study

QUICK = Options(reps=100)
TURNED = {"better": "worse", "worse": "better"}
MARKS = {mark: word for word, mark in VERDICT_MARKS.items()}
TOPICS = ("headline", "parts", "comparisons", "pairs")


class Words:
    """The words of every pair by the places that show it, as the first of the two stands to the
    second.
    """

    def __init__(self):
        self.found = {}

    def add(self, where, metric, one, two, words):
        """A pair of words, of these datasets and of datasets like these."""
        if "not compared" in words or one == two:
            return
        if one > two:
            one, two, words = two, one, tuple(TURNED.get(word, word) for word in words)
        self.found.setdefault((metric, one, two), {}).setdefault(words, set()).add(where)

    def places(self):
        """Every place that was read."""
        return {p for words in self.found.values() for where in words.values() for p in where}


def told(analysis):
    """What report.json says of the chapters that show pairs."""
    chapters = [chapter.built(analysis) for chapter in CHAPTERS if chapter.key in TOPICS]
    header = Header(title="", product="", lead="", identity={}, closing="")
    return document(header, chapters)["sections"]


def words_of(analysis):
    """The words of all pairs in every section of the report."""
    found, sections = Words(), told(analysis)
    tables = {key: section["tables"] for key, section in sections.items()}
    for row in tables["comparisons"]["comparisons"]:
        words = row["these_verdict"], row["like_verdict"]
        found.add("comparisons", row["metric"], row["variant"], row["reference"], words)
    for row in tables["headline"]["answer"]:
        words = row["these"], row["like"]
        found.add("answer", row["metric"], row["variant"], row["reference"], words)
    for row in tables["pairwise"]["pairs"]:
        words = row["these_verdict"], row["like_verdict"]
        found.add("pairs", row["metric"], row["variant"], row["other"], words)
    for name, panels in sections["comparisons"]["figures"].items():
        assert name.startswith("forest")
        for panel in panels:
            for row in panel["rows"]:
                words = tuple(MARKS.get(mark, "no test") for mark in row["marks"])
                assert words[0] == row["verdict"]
                found.add("forest", panel["metric"], row["variant"], panel["reference"], words)
    for figure in sections["pair_differences"]["figures"].values():
        for i, j in itertools.permutations(range(len(figure["rows"])), 2):
            words = tuple(MARKS[mark] for mark in figure["marks"][i][j])
            names = figure["rows"][i], figure["columns"][j]
            found.add("heatmap", analysis.metric, *names, words)
    add_parts(found, analysis, tables["attribution"]["effects"])
    return found


def add_parts(found, analysis, effects):
    """The effects of parts that are differences of two variants."""
    results = analysis.results
    bare = {"experiment.refiner": "@NullRefiner"}
    base = next((v for v, bound in results.factors.items() if dict(bound) == bare), "")
    grid = find_toggle_grid(results.factors, levels=results.levels, base=base)
    every = frozenset(grid.parts)
    for row in effects:
        own = frozenset(row["parts"])
        sides = {
            "full_minus_base": (every, frozenset()),
            "add_one_in": (own, frozenset()),
            "leave_one_out": (every, every - own),
        }.get(row["kind"])
        if sides:
            names = [results.aliases.get(grid.cells[s], grid.cells[s]) for s in sides]
            words = row["these_verdict"], row["like_verdict"]
            found.add(row["kind"], analysis.metric, *names, words)


def toggles(tmp_path, key):
    skip = [("full", "data/set1", 2), ("none", "data/set0", 1)] if key % 2 else ()
    shape = {"datasets": 3 + key % 4, "seeds": 2 + key % 3, "noise": 4 + 6 * (key % 3)}
    return load_study(toggle_study(tmp_path / "s", skip=skip, **shape))


def methods(tmp_path, key):
    """Three references besides the baseline, a variant without seeds and an inert copy."""
    draws = random.Random(key)
    names = ("CoOp", "B", "C", "D", "Zero", "E", "Copy")
    effects = {name: (draws.randint(-9, 9), draws.randint(-9, 9)) for name in names}
    return load_study(
        make_study(
            tmp_path / "s",
            effects,
            references=("D", "B"),
            constant=("Zero",),
            inert={"Copy": "E"},
            datasets=4,
            seeds=3,
            noise=8,
        )
    )


def leave_one_out(tmp_path, key):
    draws = random.Random(key)
    worth = [draws.randint(-2, 9) for _ in range(5)]
    return load_study(leave_one_out_study(tmp_path / "s", worth, noise=10))


def lower_is_better(tmp_path, key):
    draws = random.Random(key)
    lines = ["variant,dataset,seed,error,loss"]
    for v, gain in (("A", 0.0), ("B", -2.0), ("C", 1.0), ("D", -0.4)):
        for d, s in itertools.product(range(5), range(3)):
            values = (30 + d + gain + draws.gauss(0, 0.8) for _ in range(2))
            lines.append(f"{v},d{d},{s},{','.join(f'{x:.4f}' for x in values)}")
    path = tmp_path / "s.csv"
    path.write_text("\n".join(lines) + "\n")
    return load_source(path, Reading(lower=("error", "loss")))


STUDIES = {
    "toggles": (toggles, {"full_minus_base", "add_one_in", "leave_one_out"}),
    "methods": (methods, set()),
    "leave one out": (leave_one_out, {"full_minus_base", "leave_one_out"}),
    "errors": (lower_is_better, set()),
}


@pytest.mark.parametrize("options", [QUICK, Options(reps=100, rope=0.0, alpha=0.2)])
@pytest.mark.parametrize("key", range(3))
@pytest.mark.parametrize("name", STUDIES)
def test_a_pair_has_one_word_per_scope_everywhere(tmp_path, name, key, options):
    study, effects = STUDIES[name]
    found = words_of(Analysis(results=study(tmp_path, key), options=options))
    assert found.places() >= {"comparisons", "answer", "pairs", "forest", "heatmap", *effects}
    several = {pair: words for pair, words in found.found.items() if len(words) > 1}
    assert not several
    assert any(len(where) > 2 for words in found.found.values() for where in words.values())


def test_a_pair_of_references_is_the_same_either_way(tmp_path):
    results = methods(tmp_path, 1)
    rows = told(Analysis(results=results, options=QUICK))["comparisons"]["tables"]["comparisons"]
    by_pair = {(r["metric"], r["variant"], r["reference"]): r for r in rows}
    turned = 0
    for (metric, variant, reference), row in by_pair.items():
        other = by_pair.get((metric, reference, variant))
        if other is None or row["difference"] is None or metric == "hm_of_means":
            continue
        turned += 1
        assert other["difference"] == pytest.approx(-row["difference"])
        assert (row["wins"], row["losses"]) == (other["losses"], other["wins"])
        for scope in ("these", "like"):
            words = row[f"{scope}_verdict"], other[f"{scope}_verdict"]
            assert words[1] == TURNED.get(words[0], words[0])
            for p in ("p", "holm_p", "equivalence_p"):
                assert row[f"{scope}_{p}"] == other[f"{scope}_{p}"]
            ends = [row[f"{scope}_interval_{end}"] for end in ("low", "high")]
            assert [-other[f"{scope}_interval_{end}"] for end in ("high", "low")] == ends
        assert row["better_in"] == other["worse_in"]
    assert turned == 3 * 3 * 2  # three metrics, three pairs of references, both ways

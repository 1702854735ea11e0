"""Many variants and many runs: nothing is cut by the order of a file, and every format says it."""

import json
import re

import numpy as np
import pytest

from analysis.read.load import load_results
from analysis.report import build_report, summary_lines
from analysis.sections.analysis import Analysis, Options
from analysis.sections.selection import selection
from tests.helpers.score_files import write_scores


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    path = write_scores(folder / "many.csv", 48, 7, 7)
    out = folder / "report"
    return build_report(path, out=out, options=Options(reps=200), figures=False)


def test_baseline_best_and_worst_are_shown_wherever_the_file_has_them(many):
    found, results = selection(many.analysis), many.results
    means = {v: np.mean(results.scores(v, "accuracy")) for v in results.variants}
    ranked = sorted(results.variants[1:], key=means.get)
    assert set(found.shown) == {results.baseline, *ranked[:10], *ranked[-10:]}
    assert {*found.shown, *found.others} == set(results.variants)
    chosen = Analysis(results=load_results(many.out.parent / "many.csv"))
    assert selection(chosen) == found


def test_every_format_says_which_variants_it_shows(many):
    said = selection(many.analysis).sentence
    assert said.startswith("Of 48 variants, figures and open tables show 21: the baseline, and")
    raw = json.loads((many.out / "report.json").read_text())
    assert said in [s["text"] for s in raw["sections"]["results"]["sentences"]]
    assert any(said in line for line in summary_lines(many))
    for name in ("report.md", "report.tex", "index.html"):
        assert "48 variants, figures and open tables show 21" in (many.out / name).read_text()
    for name in ("critical_difference", "pairwise_heatmap", "difference_heatmap"):
        assert "21 of 48 variants are shown" in many.figures[name].caption


def test_all_variants_are_tested_and_in_the_files(many):
    raw = json.loads((many.out / "report.json").read_text())["sections"]
    pairs = raw["pairwise"]["tables"]["pairs"]
    assert len(pairs) == 48 * 47 // 2 and not raw["pairwise"]["tables"]["left_out"]
    assert all(pair["like_holm_p"] is not None for pair in pairs)
    assert len(raw["comparisons"]["tables"]["comparisons"]) == 47
    assert len({row["variant"] for row in raw["results"]["tables"]["results"]}) == 48


def test_bars_join_only_variants_whose_pairs_do_not_differ(many):
    raw = json.loads((many.out / "report.json").read_text())["sections"]["pairwise"]
    p = {frozenset((r["variant"], r["other"])): r["like_holm_p"] for r in raw["tables"]["pairs"]}
    drawn = raw["figures"]["critical_difference"]
    assert drawn["groups"]
    for group in drawn["groups"]:
        places = [drawn["variants"].index(v) for v in group]
        assert places == list(range(places[0], places[0] + len(group)))
        assert all(p[frozenset((a, b))] >= 0.05 for a in group for b in group if a != b)


def test_a_long_list_of_runs_has_a_page_of_its_own(many):
    page, runs = ((many.out / name).read_text() for name in ("index.html", "runs.html"))
    assert 'href="runs.html"' in page and "2,352 runs" in page
    assert page.count("dataset_003") < 200 and runs.count("<tr>") > 2352
    links = set(re.findall(r'href="runs\.html#([^"]+)"', page))
    assert links and links <= set(re.findall(r'id="([^"]+)"', runs))
    assert 'href="index.html"' in runs


def test_a_short_list_stays_on_the_page_and_the_other_page_goes(tmp_path):
    path = write_scores(tmp_path / "few.csv", 3, 4, 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "runs.html").write_text("of an earlier report")
    build_report(path, out=tmp_path / "out", options=Options(reps=200), figures=False)
    assert not (tmp_path / "out" / "runs.html").exists()
    assert "runs.html" not in (tmp_path / "out" / "index.html").read_text()

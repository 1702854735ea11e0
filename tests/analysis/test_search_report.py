"""The page of a search: every section, every number from the files, nothing that was not found."""

import itertools
import json
from statistics import fmean

import pytest

from analysis.figures.search import position
from analysis.read.search_trials import best_so_far, expected_best, read_search
from analysis.search_report import build_search_report, search_report_schema
from analysis.sections.analysis import Options
from analysis.sections.claims import certainty
from core.store.search import TUNED, Trial, write_importances, write_result
from experiments.search.importances import importances_of
from experiments.search.result import final_plan, result_of, winning_settings
from experiments.study.driver import run_study
from experiments.workers.local import InlineExecutor
from tests.helpers.fake_searches import (
    ENTRY,
    RUNTIME,
    fingerprints,
    parsed,
    read_trials,
    run_inline,
)
from tests.helpers.json_schema import assert_matches_schema
from tests.helpers.report_pages import read_page, rows_of

QUICK = Options(reps=200)


def finish(tmp_path, *overrides, trials=12):
    """A search with its random control and its judgment; its folder."""
    searches = [
        parsed(tmp_path, *overrides, trials=trials, control=control) for control in (False, True)
    ]
    folders = [tmp_path / search.search.study for search in searches]
    courses = [run_inline(s, folder) for s, folder in zip(searches, folders, strict=True)]
    write_importances(folders[0], importances_of(folders[0]))
    made = final_plan(searches[0], winning_settings(courses), fingerprints)
    run_study(made, tmp_path / "fake_final", InlineExecutor(ENTRY), runtime=RUNTIME)
    write_result(folders[0], result_of(courses[0], courses[1], made, tmp_path / "fake_final"))
    return folders[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("search"))


def test_the_page_says_what_tuning_gained_and_what_it_cost(folder):
    report = build_search_report(folder, options=QUICK)
    kinds, texts = zip(*((s.kind, s.text) for s in report.findings), strict=True)
    result = json.loads((folder / "result.json").read_text())
    tuned, default = (result["variants"][name] for name in (TUNED, "default"))
    gain = 100 * (tuned["test"]["base"] - default["test"]["base"])
    verb = "gained" if gain >= 0 else "lost"
    assert texts[0].startswith(f"Tuning {verb} {abs(gain):.2f} points of Base against the default")
    first = report.comparisons[0]
    for where, claim in (("these datasets", first.these), ("datasets like these", first.like)):
        assert f"on {where} {claim.word} ({certainty(claim)})" in texts[0]
        assert claim.interval is not None and claim.holm_p is not None
    assert "), at a cost of 52 runs and 1.3 minutes of compute." in texts[0]
    assert texts[1].startswith("Random search of equal budget")
    assert "against the random search on fresh seeds" in texts[2]
    promised = 100 * (tuned["search"]["val"] - default["search"]["val"])
    assert f"{promised:+.2f} points of val" in texts[3] and "is the optimism" in texts[3]
    assert f"{promised - gain:+.2f} points is the optimism" in texts[3].replace(
        "The difference of ", ""
    )
    assert set(kinds) <= {"better", "worse", "undecided", "note"}
    page = report.page.read_text()
    tree = read_page(report.page)
    shown = [e.attributes["id"] for e in tree.all("section")]
    assert shown == ["judgment", "winner", "course"]
    folded = [e.attributes["id"] for e in tree.by_id("details").all("details", "chapter")]
    assert folded == ["settings", "importances", "trials", "definition"]
    rows = rows_of(tree.all("table", "answer")[0])
    for row, c in zip(rows, report.comparisons, strict=True):
        assert row[0] == f"{c.variant} against {c.reference}"
    for title in ("History", "Expected best", "Parallel coordinates", "Slices"):
        assert title in page
    assert "<dd>the search has one objective</dd>" in page
    assert page.count("<svg") == 3 + 4 + len(report.comparisons)
    found = json.loads((folder / "report" / "report.json").read_text())
    assert_matches_schema(found, search_report_schema())
    sections = found["sections"]
    figures = {name for section in sections.values() for name in section["figures"]}
    assert figures == {"history", "budget", "parallel", "slices"}
    reasons = {key: section["reason"] for key, section in sections.items() if section["reason"]}
    assert reasons == {"front": "the search has one objective"}
    assert len(sections["slices"]["figures"]["slices"]["slice-SGD.lr"]) == 12
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    best = max(t["values"][0] for t in read_trials(folder))
    assert f"{100 * best:.2f}" in page
    assert "not a test" in page and "TPE.group = True" in page


def test_the_paired_difference_is_that_of_the_runs(folder):
    report = build_search_report(folder, options=QUICK)
    first = report.comparisons[0]
    assert (first.variant, first.reference, first.metric) == (TUNED, "default", "base")
    again = build_search_report(folder, options=QUICK)
    assert report.to_dict() == again.to_dict()
    assert json.loads((folder / "report" / "report.json").read_text()) == json.loads(
        json.dumps(report.to_dict())
    )


def test_several_objectives_have_a_front_and_a_cost_is_no_percentage(tmp_path):
    aims = "search.objectives=('hm', 'trainable_parameters')"
    folder = finish(tmp_path, aims, "search.sampler=@NSGA3", "NSGA3.population=4", trials=8)
    report = build_search_report(folder, options=QUICK)
    page = report.page.read_text()
    assert "Pareto front" in page and "search: trainable_parameters" in page
    assert report.comparisons[0].metric == "hm"


def test_a_search_without_a_judgment_says_so(tmp_path):
    run_inline(parsed(tmp_path, trials=4), tmp_path / "s")
    report = build_search_report(tmp_path / "s", options=QUICK)
    (finding,) = report.findings
    assert finding.kind == "note"
    assert (
        finding.text
        == "Not judged yet: 4 of 4 trials are complete, and no test image has been used."
    )
    assert '<section id="judgment">' not in report.page.read_text()


def test_a_search_in_which_nothing_worked_has_a_page(tmp_path):
    run_inline(parsed(tmp_path, "experiment.shots_file='crash'", trials=4), tmp_path / "s")
    page = build_search_report(tmp_path / "s", options=QUICK).page.read_text()
    assert page.count("<dd>too few complete trials: 0</dd>") == 4
    assert "this run always fails" in page


def test_a_folder_that_is_no_search_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a search folder"):
        read_search(tmp_path)
    (tmp_path / "search.json").write_text('{"schema_version": 2}')
    with pytest.raises(ValueError, match="schema version 2"):
        read_search(tmp_path)


def test_the_expected_best_is_the_mean_over_all_orders():
    values = [0.3, 0.9, 0.5, 0.5]
    for b, expected in enumerate(expected_best(values), start=1):
        draws = [max(draw) for draw in itertools.combinations(values, b)]
        assert expected == pytest.approx(fmean(draws))
    assert expected_best([]) == []


def test_the_best_so_far_skips_what_has_no_value():
    states = [("failed", ()), ("complete", (0.5,)), ("pruned", (0.9,)), ("complete", (0.4,))]
    trials = [
        Trial(number=n, params={}, state=state, values=values, num_runs=1, message="")
        for n, (state, values) in enumerate(states)
    ]
    assert best_so_far(trials) == [(1, 0.5), (2, 0.5), (3, 0.5)]


def test_settings_stand_where_they_belong():
    log = {"kind": "float", "low": 0.001, "high": 0.1, "log": True, "step": None}
    assert position(log, "0.01") == pytest.approx(0.5)
    assert position({**log, "log": False}, "0.1") == 1.0
    choice = {"kind": "choice", "choices": ["@A", "@B", "@C"]}
    assert [position(choice, text) for text in choice["choices"]] == [0.0, 0.5, 1.0]

"""Further tests of the report: their numbers are those of the statistics, and what is not
applicable says why.
"""

import html
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

import main as command_line
from analysis import stats
from analysis.figures.variance import variance_figure
from analysis.read.csv_file import load_csv
from analysis.read.study_folder import load_study
from analysis.render.json_document import document
from analysis.report import CHAPTERS, build_report, report_schema
from analysis.sections import (
    conover,
    mixed_model,
    overlapping_resamples,
    rank_stability,
    shared_tests,
    shot_trends,
)
from analysis.sections import parts as parts_topic
from analysis.sections.analysis import Analysis, Options
from analysis.sections.claims import LIKE, THESE
from analysis.sections.comparisons import compare_all, compared, differences
from analysis.sections.conover import agreement
from analysis.sections.design import rule_terms, rules
from analysis.sections.evidence import evidenced
from analysis.sections.mixed_model import modeled
from analysis.sections.pairwise import paired
from analysis.sections.parts import parts_view
from analysis.sections.rank_stability import stability
from analysis.sections.section import Header
from analysis.sections.shot_trends import trends
from analysis.stats import Resamples, variance_shares
from analysis.stats.mean_tests import ONE_DATASET
from analysis.text import interval_text, p_text, points
from tests.helpers.json_schema import assert_matches_schema
from tests.helpers.paths import GOLDEN
from tests.helpers.report_pages import read_page, rows_of
from tests.helpers.report_studies import EVIL, toggle_study
from tests.helpers.study_folders import make_study

QUICK = Options(reps=300)
GOLDEN = json.loads((GOLDEN / "stats_reference.json").read_text())
RESAMPLED = GOLDEN["corrected_resampled_t"]
NO_NUMBER = re.compile(r"\b(nan|inf|NaN|Infinity|None)\b")


def made(source, out, options=QUICK):
    return build_report(source, out=out, options=options, figures=False)


def computed(results, options=QUICK):
    """What the further tests are made from, without a page."""
    return Analysis(results=results, options=options)


TOPICS = {
    "mixed": mixed_model.TOPIC,
    "conover": conover.TOPIC,
    "stability": rank_stability.TOPIC,
    "rise": shot_trends.RISE,
    "advantage": shot_trends.ADVANTAGE,
    "overlap": overlapping_resamples.TOPIC,
}


def box(analysis, key):
    """The section of one further test."""
    (found,) = TOPICS[key].build(analysis)
    return found


def shown(analysis, key):
    """The first table of a further test as text."""
    return box(analysis, key).tables[0].texts()


def record(analysis):
    """What report.json says of the further tests; it follows the schema."""
    (chapter,) = (c for c in CHAPTERS if c.key == "further")
    header = Header(title="", product="", lead="", identity={}, closing="")
    found = document(header, [chapter.built(analysis)])["sections"]
    rules_of = report_schema()["properties"]["sections"]["properties"]
    for key, value in found.items():
        assert_matches_schema(json.loads(json.dumps(value, allow_nan=False)), rules_of[key])
    return found


def section(report):
    """The chapter of the further tests on the page, as text."""
    return read_page(report.page).by_id("further").text()


def rows(report, key):
    """Cells of the table of a further test as they stand on the page."""
    title = box(report.analysis, key).title
    found = read_page(report.page).by_id("further").all("div", "scroll")
    return rows_of(next(e for e in found if e.attributes["aria-label"] == title))


def write_csv(path, scores, seeds=True):
    """A tidy file from {variant: (D, S) percent}; NaN has no row."""
    lines = ["variant,dataset,seed,accuracy" if seeds else "variant,dataset,accuracy"]
    for variant, table in scores.items():
        name = f'"{variant}"'
        for (d, s), value in np.ndenumerate(np.atleast_2d(table)):
            if np.isfinite(value):
                lines.append(f"{name},d{d},{f'{s},' if seeds else ''}{value:.6f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def noisy(num_variants, num_datasets, num_seeds, *, step=1.0, key=0):
    """Percent: variant v is ``step`` times v better, with noise of datasets, both, and seeds."""
    rng = np.random.default_rng(key)
    level = 60 + rng.normal(0, 5, (1, num_datasets, 1))
    both = rng.normal(0, 0.5, (num_variants, num_datasets, 1))
    noise = rng.normal(0, 0.5, (num_variants, num_datasets, num_seeds))
    return level + both + noise + step * np.arange(num_variants)[:, None, None]


def named(tables):
    return {f"v{i}": table for i, table in enumerate(tables)}


@pytest.fixture(scope="module")
def toggle(tmp_path_factory):
    """The report of a toggle grid."""
    folder = toggle_study(tmp_path_factory.mktemp("further") / "grid", datasets=6, seeds=3)
    return made(folder, folder / "report")


@pytest.fixture(scope="module")
def holes(tmp_path_factory):
    """Eight datasets; two cells are missing, one variant has no seeds, one another regime."""
    folder = tmp_path_factory.mktemp("holes") / "study"
    make_study(
        folder,
        {"CoOp": (0, 0), "Zero": (-9, -9), "Full": (8, 8), "Other": (9, 9)},
        datasets=8,
        seeds=3,
        constant=("Zero",),
        skip=(("Full", "data/set1", 2), ("Full", "data/set4", 3)),
        regimes={"Other": "transductive"},
    )
    return made(folder, folder / "report")


def test_the_mixed_model_on_the_page_is_that_of_the_statistics(toggle):
    results = toggle.results
    scores = np.stack([results.scores(v, "hm") for v in results.variants])
    found = stats.mixed_model(scores, results.variants, baseline=0)
    assert modeled(toggle.analysis).model == found and found.num_missing == 0
    expected = [
        [e.variant, points(e.difference, sign=True), interval_text(e.interval), p_text(e.p)]
        for e in found.effects
    ]
    cells = [[cell.replace("−", "-") for cell in row[:4]] for row in rows(toggle, "mixed")]
    assert cells == expected and len(cells) == 7
    raw = json.loads((toggle.out / "report.json").read_text())["sections"]["mixed_model"]["tables"]
    assert raw["effects"][2]["difference"] == pytest.approx(found.effects[2].difference, abs=1e-6)
    assert raw["fit"][0]["variance_seed"] == pytest.approx(found.var_seed, rel=1e-5)
    told = box(toggle.analysis, "mixed").sentences[1].text
    assert f"seeds {10_000 * found.var_seed:.2f}" in told


def test_missing_cells_have_the_mixed_model_as_their_answer(holes):
    view = modeled(holes.analysis)
    assert (view.num_missing, view.num_planned) == (2, 8 * 3 + 8 + 8 * 3)
    assert view.unseeded == ("Zero",) and view.model.num_scores == 24 + 8 + 22
    results = holes.results
    padded = np.full((8, 3), np.nan)
    padded[:, :1] = results.scores("Zero", "hm")
    scores = np.stack([results.scores("CoOp", "hm"), padded, results.scores("Full", "hm")])
    assert view.model == stats.mixed_model(scores, ["CoOp", "Zero", "Full"])
    text = section(holes)
    assert "2 of 56 planned scores are missing; the model uses every score that exists" in text
    assert "one score per dataset, never as copies: Zero." in text
    assert "Other is excluded from all of them: regime 'transductive'" in text
    assert stability(holes.analysis).left_out == ("data/set1", "data/set4")
    assert "Left out because cells are missing: data/set1, data/set4." in text
    assert "6 datasets, 3 seeds" in text
    for name in ("report.md", "report.tex"):
        assert "2 of 56 planned scores are missing" in (holes.out / name).read_text()


def test_conover_agrees_or_names_the_pairs(tmp_path):
    far = computed(load_csv(write_csv(tmp_path / "far.csv", named(noisy(4, 8, 3, step=0)))))
    agrees = box(far, "conover").sentences[1].text
    assert agrees == "It agrees with the verdicts on datasets like these on all 6 pairs."
    results = load_csv(write_csv(tmp_path / "near.csv", named(noisy(5, 5, 3, step=0.8))))
    near = computed(results)
    pairs = paired(near)["accuracy"]
    table = [stats.dataset_means(results.scores(v, "accuracy")) for v in results.variants]
    p_VV, _ = stats.conover_friedman(np.stack(table, axis=1))
    expected = [
        (pairs.variants[i], pairs.variants[j])
        for i in range(5)
        for j in range(i + 1, 5)
        if (p_VV[i, j] < 0.05) != pairs.judgments[i, j].like.decided
    ]
    disagreements = agreement(near).disagreements
    assert expected and [(d.variant, d.other) for d in disagreements] == expected
    assert [row[:2] for row in shown(near, "conover")] == expected
    assert box(near, "conover").sentences[1].text == (
        f"It disagrees with the verdicts on datasets like these on {len(expected)} of 10 pairs."
    )
    raw = record(near)["conover"]["tables"]
    assert raw["pairs"][0]["holm_p"] == pytest.approx(p_VV[0, 1], rel=1e-5)
    assert raw["fit"][0]["pairs"] == 10 == len(raw["pairs"])


def test_rank_stability_counts_places_over_the_same_draws(toggle):
    view, results = stability(toggle.analysis), toggle.results
    scores = np.stack([results.scores(v, "hm") for v in results.variants])
    draws = Resamples.draw(6, 3, reps=300, rng=np.random.default_rng(0))
    assert view.found == stats.rank_stability(scores, draws)
    first = np.zeros(8)
    for tables in draws.tables(scores, slice(0, 300))[0].mean(axis=(2, 3)):
        first[np.argsort(-tables)[:2]] += 1 / 300
    assert view.found.first_two_on_like_these == pytest.approx(first)
    assert sum(view.found.best_on_these) == pytest.approx(1)
    assert sum(view.found.first_two_on_like_these) == pytest.approx(2)
    cells = rows(toggle, "stability")
    best = int(np.argmax(view.found.best_on_like_these))
    assert cells[best][1] == f"{view.found.best_on_like_these[best]:.2f}"
    assert cells[best][5] == f"{view.found.mean_ranks[best]:.2f}"


def test_ties_share_their_places():
    same = np.repeat(np.random.default_rng(0).normal(0.7, 0.1, (1, 6, 3)), 3, axis=0)
    last = same[:1] - 0.2
    draws = Resamples.draw(6, 3, reps=100, rng=np.random.default_rng(1))
    found = stats.rank_stability(np.concatenate([same, last]), draws)
    assert found.best_on_these == pytest.approx([1 / 3] * 3 + [0])
    assert found.first_two_on_like_these == pytest.approx([2 / 3] * 3 + [0])


SHOTS = ("1 shot", "2 shots", "4 shots", "8 shots")


def curve(tmp_path, slopes, *, datasets=6, shots=SHOTS, hole=False):
    """Results of a few-shot study: a variant gains ``slopes[variant]`` points a step."""
    rng = np.random.default_rng(3)
    level = 50 + rng.normal(0, 5, datasets)
    lines = [",".join(("variant", "dataset", "seed", *shots))]
    for variant, slope in slopes.items():
        for d in range(datasets):
            for seed in ("",) if variant == "Zero" else (1, 2):
                gain = [level[d] + slope * k + rng.normal(0, 0.3) for k in range(len(shots))]
                gain = [level[d]] * len(shots) if variant == "Zero" else gain
                if hole and (variant, d, seed) == ("Fast", 0, 1):
                    continue
                if hole and (variant, d, seed) == ("Fast", 0, 2):
                    continue
                lines.append(",".join((variant, f"d{d}", str(seed), *(f"{g:.4f}" for g in gain))))
    path = tmp_path / "curve.csv"
    path.write_text("\n".join(lines) + "\n")
    return replace(
        load_csv(path), curve={name: int(name.split()[0]) for name in shots}, primary=shots[-1]
    )


def test_trends_over_shots_rise_grow_and_shrink(tmp_path):
    slopes = {"CoOp": 1.0, "Zero": 0.0, "Fast": 3.0, "Slow": 0.2, "Twin": 1.0}
    results = curve(tmp_path, slopes)
    further = computed(results)
    view = trends(further)
    words = {t.variant: t.word for t in view.advantage}
    assert words == {"Zero": "shrinks", "Fast": "grows", "Slow": "shrinks", "Twin": "undecided"}
    assert [t.variant for t in view.rise] == ["CoOp", "Fast", "Slow", "Twin"]
    fast = np.stack([stats.dataset_means(results.scores("Fast", m)) for m in SHOTS], axis=1)
    expected = scipy.stats.page_trend_test(fast)
    assert (view.rise[1].trend.statistic, view.rise[1].p) == pytest.approx(
        (expected.statistic, expected.pvalue)
    )
    apart = [differences(results, "Slow", "CoOp", m).mean(axis=1) for m in SHOTS]
    slow = next(t for t in view.advantage if t.variant == "Slow")
    assert slow.p == pytest.approx(2 * scipy.stats.page_trend_test(-np.stack(apart, axis=1)).pvalue)
    for family in (view.rise, view.advantage):
        assert [t.holm_p for t in family] == stats.holm([t.p for t in family])
    cells = {row[0]: row for row in shown(further, "advantage")}
    assert cells["Fast"][5] == "grows" and cells["Slow"][3] == p_text(slow.p)
    assert "Not trained, and therefore without a curve: Zero." in box(further, "rise").text
    lines = dict(rule_terms(rules(further)))
    assert lines[f"Decision table, shots: {LIKE}"] == "Page's L over datasets"
    assert record(further)["shot_advantage"]["tables"]["trends"][1]["trend"] == "grows"


def test_trends_that_cannot_be_told_say_why(toggle, tmp_path):
    assert box(toggle.analysis, "rise").reason == "the study has a single number of shots"
    two = computed(curve(tmp_path, {"CoOp": 1, "Fast": 3}, shots=SHOTS[:2]))
    assert "needs 2 complete datasets and 3 points, got 6 and 2" in trends(two).rise[0].trend.reason
    assert all(t.word == "undecided" and t.p is None for t in trends(two).advantage)
    hole = computed(curve(tmp_path, {"CoOp": 1, "Fast": 3}, hole=True))
    assert trends(hole).left_out == ("d0",)
    assert [t.trend.n for t in trends(hole).rise] == [6, 5]
    assert "Left out because cells are missing: d0." in box(hole, "rise").text


def test_the_decision_table_is_in_the_design_box(toggle, holes):
    facts = dict(toggle.section("design").table("design").rows)
    rule = stats.decision_rule(6, 3, num_variants=8)
    for name, scope in ((THESE, rule.these), (LIKE, rule.like)):
        assert facts[f"Decision table: {name}"].startswith(scope.test)
        assert all(text in facts[f"Decision table: {name}"] for text in scope.also)
    assert facts["Decision table: never"] == "; ".join(rule.never)
    assert facts["Decision table: notes"] == "; ".join(rule.notes) != ""
    lines = dict(holes.section("design").table("design").rows)
    assert "mixed model" in lines[f"Decision table: {LIKE}"]
    raw = json.loads((toggle.out / "report.json").read_text())["sections"]["design"]["tables"]
    assert [(row["these_test"], row["like_test"]) for row in raw["decision_table"]] == [
        (rule.these.test, rule.like.test)
    ]
    assert raw["decision_table"][0]["like_claim"] == rule.like.claim


def resamples_file(path, *, datasets=1, scale=1.0):
    """Ten times ten-fold cross-validation of the reference, in percent."""
    d = scale * np.array(RESAMPLED["diffs_10x10cv"])
    scores = {"base": np.full((datasets, d.size), 60.0), "new": np.tile(60 + d, (datasets, 1))}
    return write_csv(path, scores)


def test_overlapping_resamples_are_decided_by_the_corrected_t(tmp_path):
    t, p = RESAMPLED["t,p two-sided with ratio n_test/n_train=1/9"]
    source = resamples_file(tmp_path / "cv.csv")
    options = Options(reps=300, overlap=1 / 9, rope=0.005)
    report = made(source, tmp_path / "out", options)
    (block,) = compared(report.analysis)
    (c,) = block.comparisons["accuracy"]
    assert (c.these.p, c.these.holm_p) == pytest.approx((p, p), rel=1e-5)
    (interval,) = (t.test.interval for t in overlapping_resamples.tests(report.analysis))
    assert c.these.interval == pytest.approx(interval)
    assert c.like.p is None and c.like.reason == ONE_DATASET
    judged = paired(report.analysis)["accuracy"].judgment("new", "base")
    assert judged == c.judgment
    (row,) = overlapping_resamples.tests(report.analysis)
    assert (row.test.t, row.plain_p) == pytest.approx(
        (t, RESAMPLED["uncorrected ttest_1samp"][1]), rel=1e-5
    )
    assert list(row.posterior[:3]) == pytest.approx(RESAMPLED["baycomp rope=.5"], rel=1e-5)
    assert evidenced(report.analysis)[0][0].posterior == pytest.approx(row.posterior)
    assert rows(report, "overlap")[0][5:10] == ["0.226", "<0.001", "0.00", "0.65", "0.34"]
    raw = json.loads((report.out / "report.json").read_text())
    assert_matches_schema(raw, report_schema())
    assert raw["options"]["overlap"] == 1 / 9
    tables = {key: section["tables"] for key, section in raw["sections"].items()}
    assert tables["comparisons"]["comparisons"][0]["these_p"] == pytest.approx(p, rel=1e-4)
    assert tables["design"]["decision_table"][0]["these_test"] == "corrected resampled t"
    assert tables["overlapping_resamples"]["tests"][0]["p"] == pytest.approx(p, rel=1e-4)
    assert "corrected resampled t" in report.section("methods").text


def test_without_overlap_the_same_file_is_judged_as_independent(tmp_path):
    results = load_csv(resamples_file(tmp_path / "cv.csv"))
    (c,) = compare_all(results, QUICK)[0].comparisons["accuracy"]
    assert c.these.word == "better" and c.these.holm_p < 0.001
    assert box(computed(results), "overlap").reason.startswith("without --overlap")


def test_overlap_reaches_every_t_over_seeds(tmp_path):
    d = np.array(RESAMPLED["diffs_10x10cv"])[None] / 100
    p = RESAMPLED["t,p two-sided with ratio n_test/n_train=1/9"][1]
    assert stats.judge([d], overlap=1 / 9)[0].these.p == pytest.approx(p)
    assert stats.one_sided_p(d, overlap=1 / 9)[0].p == pytest.approx(p / 2)
    loose, strict = (stats.tost(d, overlap=o).p for o in (None, 1 / 9))
    scale = stats.corrected_resampled_t(d, test_over_train=1 / 9).scale
    assert (
        strict == pytest.approx(scipy.stats.t.sf((0.01 - d.mean()) / scale, 99)) and loose < strict
    )
    results = load_csv(resamples_file(tmp_path / "three.csv", datasets=3))
    ((corrected,), (independent,)) = (
        compare_all(results, Options(reps=300, overlap=o))[0].comparisons["accuracy"]
        for o in (1 / 9, None)
    )
    widths = [c.these.interval.high - c.these.interval.low for c in (corrected, independent)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(1 + 100 / 9), rel=1e-6)
    assert (corrected.better_in.k_hat, independent.better_in.k_hat) == (0, 3)
    options = Options(reps=300, overlap=1 / 9)
    assert len(overlapping_resamples.tests(computed(results, options))) == 3
    means = np.random.default_rng(0).normal(0.01, 0.01, (8, 3))
    assert stats.judge([means], overlap=1.0)[0].like == stats.judge([means])[0].like


@pytest.mark.parametrize("ratio", ["0", "-0.1", "nan", "inf"])
def test_a_bad_ratio_is_one_clear_line(tmp_path, monkeypatch, capsys, ratio):
    source = resamples_file(tmp_path / "cv.csv")
    monkeypatch.setattr(sys, "argv", ["main.py", "report", str(source), "--overlap", ratio])
    assert command_line.main() == 2
    said = capsys.readouterr()
    assert "overlap is the ratio of test images to training images" in said.err
    assert len(said.err.strip().splitlines()) == 1 and not said.out


def test_shares_of_variance_are_on_the_page_and_add_up(toggle):
    results, parts = toggle.results, parts_topic.parts(toggle.analysis).attribution.parts
    values = toggle.figures["variance_shares"].values
    assert [row["dataset"] for row in values] == list(results.datasets)
    assert list(values[0]["shares"]) == [*parts, "two together", "three together", "seeds"]
    for row in values:
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-5)
    cells = {
        frozenset(p for p, on in zip(parts, switched, strict=True) if on): results.scores(v, "hm")
        for v, switched in (
            (v, [not results.factors[v][f"TextRefiner.{p}"].startswith("@No") for p in parts])
            for v in results.variants
        )
    }
    found = variance_shares(cells, parts)
    assert tuple(parts_topic.parts(toggle.analysis).variance.values()) == found
    by_name = {source.name: share for source, share in found[2].by_source.items()}
    assert values[2]["shares"] == pytest.approx(by_name, abs=1e-6)
    raw = json.loads((toggle.out / "report.json").read_text())["sections"]["variance"]["tables"]
    shares = {tuple(s["parts"]): s["share"] for s in raw["variance"] if s["dataset"] == "data/set2"}
    assert shares == pytest.approx(dict(found[2].shares), abs=1e-6)
    assert 'id="figure-variance_shares"' in toggle.page.read_text()
    line = f"| data/set2 | {100 * found[2].shares[(parts[0],)]:.2f} |"
    assert line in (toggle.out / "report.md").read_text()


def test_shares_of_variance_say_why_they_are_not_there(tmp_path):
    gap = toggle_study(tmp_path / "gap", datasets=2, seeds=1, skip=(("full", "data/set0", 1),))
    view = parts_view(load_study(gap), "hm", QUICK)
    caption = variance_figure(view.variance, view.attribution.parts, metric="HM").caption
    assert "data/set0: no seed has every cell." in caption
    assert "data/set1: one seed: noise is inside the shares." in caption
    none = toggle_study(tmp_path / "none", datasets=1, seeds=1, skip=(("full", "data/set0", 1),))
    report = made(none, tmp_path / "out")
    assert report.section("variance").reason == "no seed has every cell"
    assert "<dd>no seed has every cell</dd>" in report.page.read_text()


def constant_columns():
    flat = np.full((6, 2), 70.0)
    return {"a": flat, "b": flat + 1, "c": flat + 2}


def copies():
    one = noisy(1, 6, 2)[0]
    return {"a": one, "b": one, "c": one}


def with_holes():
    tables = noisy(4, 4, 2)
    tables[1, 2], tables[2, 0, 1], tables[3, 1:] = np.nan, np.nan, np.nan
    return named(tables)


DEGENERATE = {
    "one dataset": lambda: named(noisy(3, 1, 3)),
    "one seed": lambda: named(noisy(3, 6, 1)),
    "one of each": lambda: named(noisy(2, 1, 1)),
    "two datasets": lambda: named(noisy(3, 2, 2)),
    "one variant": lambda: named(noisy(1, 4, 2)),
    "missing cells": with_holes,
    "identical": copies,
    "constant": constant_columns,
    "no noise": lambda: named(np.repeat(noisy(3, 5, 1), 3, axis=2)),
    "evil names": lambda: dict(zip((*EVIL[:3], "plain"), noisy(4, 6, 2), strict=True)),
}


@pytest.mark.parametrize("overlap", [None, 0.25])
@pytest.mark.parametrize("case", DEGENERATE)
def test_small_and_odd_studies_have_numbers_or_reasons(tmp_path, case, overlap):
    results = load_csv(write_csv(tmp_path / "s.csv", DEGENERATE[case]()))
    found = computed(results, Options(reps=200, overlap=overlap))
    for key in TOPICS:
        told = box(found, key)
        assert bool(told.reason) != bool(told.sentences)
        cells = [cell for table in told.tables for row in table.texts() for cell in row]
        assert not NO_NUMBER.search(" ".join((told.reason, told.text, *cells)))
    record(found)


PAGES = {"one of each": 0.25, "missing cells": None,
         "evil names": None}  # fmt: skip


@pytest.mark.parametrize("case", PAGES)
def test_pages_of_odd_studies_have_no_nan(tmp_path, case):
    source = write_csv(tmp_path / "s.csv", DEGENERATE[case]())
    report = made(source, tmp_path / "out", Options(reps=200, overlap=PAGES[case]))
    for path in (tmp_path / "out").iterdir():
        assert not NO_NUMBER.search(path.read_text()), path.name
    assert_matches_schema(
        json.loads((tmp_path / "out" / "report.json").read_text()), report_schema()
    )
    text = html.unescape(report.page.read_text())
    assert "<script" not in report.page.read_text()
    for key in TOPICS:
        found = box(report.analysis, key)
        assert (f"<dd>{found.reason}</dd>" if found.reason else found.sentences[0].text) in text


def test_thirty_variants(tmp_path):
    tables = noisy(30, 4, 2, step=0.1)
    found = computed(load_csv(write_csv(tmp_path / "s.csv", named(tables))))
    assert len(shown(found, "stability")) == 30 and agreement(found).num_pairs == 435
    assert len(modeled(found).model.effects) == 29
    assert sum(stability(found).found.best_on_like_these) == pytest.approx(1)


def test_reasons_of_what_is_not_applicable(tmp_path):
    def reason(case, key):
        source = write_csv(tmp_path / "s.csv", DEGENERATE[case]())
        return box(computed(load_csv(source)), key).reason

    assert "needs at least 2 variants and 3 datasets" in reason("one dataset", "mixed")
    assert "needs 3 variants and 2 complete datasets" in reason("one of each", "conover")
    assert reason("one variant", "stability") == "a single variant always ranks first"
    assert "the same on every dataset, so no noise" in reason("constant", "mixed")
    assert "agree on the order" in reason("constant", "conover")
    assert "no dataset on which every variant" in reason("missing cells", "stability")


def anova(scores_VDS):
    """Variances of datasets, interaction and seeds of a complete table in closed form; with an
    interaction below the noise of seeds, the two are one. REML is the same (Searle, Casella and
    McCulloch, Variance Components, 1992).
    """
    num_variants, num_datasets, num_seeds = scores_VDS.shape
    means = scores_VDS.mean(axis=2)
    rest = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    both = num_seeds * (rest**2).sum()
    inside = ((scores_VDS - means[:, :, None]) ** 2).sum()
    counts = (num_variants - 1) * (num_datasets - 1), means.size * (num_seeds - 1)
    interaction, noise = both / counts[0], inside / counts[1]
    if interaction < noise:
        interaction = noise = (both + inside) / sum(counts)
    between = num_variants * num_seeds * means.mean(axis=0).var(ddof=1)
    sizes = num_variants * num_seeds, num_seeds
    return (between - interaction) / sizes[0], (interaction - noise) / sizes[1], noise


@pytest.mark.parametrize(
    ("shape", "spread"),
    [((4, 11, 3), 0.0), ((8, 6, 3), 0.0), ((5, 11, 3), 1.0), ((2, 6, 3), 0.3), ((3, 4, 5), 0.01)],
)
def test_the_mixed_model_finds_the_variances(shape, spread):
    rng = np.random.default_rng(sum(shape))
    scores = 0.6 + rng.normal(0, 0.05, (1, shape[1], 1)) + rng.normal(0, 0.006, shape)
    scores = scores + rng.normal(0, spread / 100, (*shape[:2], 1))
    found = stats.mixed_model(scores, [f"v{i}" for i in range(shape[0])])
    expected = anova(scores)
    shown = found.var_dataset, found.var_interaction, found.var_seed
    assert shown == pytest.approx(expected, rel=1e-3, abs=1e-3 * expected[2])
    assert not found.reason
    error = np.sqrt(2 * (expected[2] / shape[2] + expected[1]) / shape[1])
    assert found.effects[0].standard_error == pytest.approx(error, rel=1e-3)


def test_a_fit_never_invents_noise():
    """Seeds that never differ are one score, and exact differences have no noise to test with."""
    tables = noisy(3, 6, 1) / 100
    copied = stats.mixed_model(np.repeat(tables, 3, axis=2), "abc")
    assert copied == stats.mixed_model(tables, "abc") and copied.var_seed is None
    shifted = tables[:1] + np.array([0, 0.01, 0.02])[:, None, None]
    assert not stats.mixed_model(shifted, "abc").effects


def test_a_study_whose_baseline_has_no_score(tmp_path):
    cells = tuple(("CoOp", f"data/set{d}", s) for d in range(3) for s in (1, 2))
    folder = make_study(
        tmp_path / "s", {"CoOp": (0, 0), "Full": (8, 8)}, datasets=3, seeds=2, skip=cells
    )
    found = computed(load_study(folder), Options(reps=200, overlap=0.1))
    excluded = shared_tests.TOPIC.build(found)[0].table("left_out").rows
    assert set(excluded) == {("CoOp", "it has no score"), ("Full", "CoOp has no run yet")}
    assert "the baseline CoOp has no score" in box(found, "mixed").reason
    assert box(found, "overlap").reason == "no pair of resamples to compare"


def test_probability_of_improvement_counts_all_pairs_of_runs(tmp_path):
    path = tmp_path / "r.csv"
    scores = {"A": [[0.70, 0.72], [0.60, 0.64]], "B": [[0.71, 0.73], [0.60, 0.61]]}
    rows = [
        f"{v},{d},{s},{x}"
        for v, table in scores.items()
        for d, row in zip("xy", table, strict=True)
        for s, x in enumerate(row)
    ]
    path.write_text("variant,dataset,seed,accuracy\n" + "\n".join(rows) + "\n")
    report = build_report(path, out=tmp_path / "out", options=QUICK, figures=False)
    record = report.to_dict()["sections"]["evidence"]["tables"]["evidence"][0]
    assert record["improvement"] == pytest.approx(((3 / 4) + (1.5 / 4)) / 2)
    assert record["improvement_low"] <= record["improvement"] <= record["improvement_high"]

"""Comparisons, tables and the written report of whole studies."""

import csv
import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from analysis import stats
from analysis.read.csv_file import load_csv
from analysis.read.study_folder import load_study
from analysis.render.markdown import escape_markdown
from analysis.report import build_report, print_report, summary_lines
from analysis.sections.analysis import Options
from analysis.sections.comparisons import NO_TEST, compare_all
from analysis.sections.headline import EMBEDDED_CAVEAT
from analysis.sections.results import AVERAGE, main_table
from analysis.stats import IDENTICAL
from analysis.stats.mean_tests import CONSTANT
from analysis.text import HM_OF_MEANS, p_text, points, score_text
from core.metrics import harmonic_mean
from core.store.record import read_record, write_record
from tests.helpers.study_folders import cross_dataset, edit_manifest, make_study

QUICK = Options(reps=400)


@pytest.fixture
def study(tmp_path):
    return tmp_path / "demo"


def comparison(blocks, variant, metric="hm", block=0):
    return next(c for c in blocks[block].comparisons[metric] if c.variant == variant)


def test_comparison_numbers_by_hand(study):
    results = load_study(make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}))
    c = comparison(compare_all(results, QUICK), "Full", "base")
    d = results.scores("Full", "base") - results.scores("CoOp", "base")
    assert c.difference == pytest.approx(d.mean()) and c.num_pairs == 30 and c.num_datasets == 6
    assert c.per_dataset == pytest.approx(d.mean(axis=1))
    assert c.wilcoxon_p == 0.03125 == c.smallest_p == c.sign_flip_p and not c.disagree
    assert (c.wins, c.ties, c.losses) == (6, 0, 0) and c.family_size == 1
    over_datasets = scipy.stats.ttest_1samp(d.mean(axis=1), 0.0)
    assert c.like.p == c.like.holm_p == pytest.approx(over_datasets.pvalue)
    assert c.like.interval == pytest.approx(over_datasets.confidence_interval())
    parts = d.var(axis=1, ddof=1) / 5 / 36
    df = parts.sum() ** 2 / (parts**2 / 4).sum()
    t = d.mean() / np.sqrt(parts.sum())
    assert c.these.p == c.these.holm_p == pytest.approx(2 * scipy.stats.t.sf(t, df))
    half = scipy.stats.t.ppf(0.975, df) * np.sqrt(parts.sum())
    assert c.these.interval == pytest.approx((d.mean() - half, d.mean() + half))
    assert (c.these.word, c.like.word) == ("better", "better") and c.reason == ""
    assert c.better_in.named == results.datasets and c.worse_in.k_hat == 0


def test_hm_of_means_is_the_difference_of_the_averages(study):
    results = load_study(make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}))
    c = comparison(compare_all(results, QUICK), "Full", HM_OF_MEANS)
    mean = {(v, m): results.scores(v, m).mean() for v in results.variants for m in ("base", "new")}
    expected = harmonic_mean(mean["Full", "base"], mean["Full", "new"]) - harmonic_mean(
        mean["CoOp", "base"], mean["CoOp", "new"]
    )
    assert c.difference == pytest.approx(expected) and c.reason == NO_TEST
    for claim in (c.these, c.like):
        assert claim.word == "no test" and (claim.interval, claim.p) == (None, None)
    assert c.wilcoxon_p is None and c.per_dataset == ()


def test_zero_shot_is_paired_as_a_constant(study):
    folder = make_study(study, {"CoOp": (0, 0), "Zero": (-30, 20)}, constant=("Zero",))
    results = load_study(folder)
    c = comparison(compare_all(results, QUICK), "Zero", "new")
    d = results.scores("Zero", "new") - results.scores("CoOp", "new")
    assert d.shape == (6, 5) and c.num_pairs == 30
    assert c.difference == pytest.approx(d.mean())
    assert (c.these.word, c.like.word) == ("better", "better")
    assert main_table(results).cells["Zero", AVERAGE, "new"].half_width is None


def test_missing_cells_are_compared_on_common_pairs(study):
    skip = [("Full", "data/set0", s) for s in range(1, 6)] + [("CoOp", "data/set1", 4)]
    results = load_study(make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, skip=skip))
    c = comparison(compare_all(results, QUICK), "Full")
    assert (c.num_datasets, c.num_pairs) == (5, 24) and c.per_dataset[0] is None
    assert c.reason == "without data/set0: no pair of finished runs"
    assert c.left_out == ("data/set0",) and c.these.word == "better" == c.like.word
    d = results.scores("Full", "hm") - results.scores("CoOp", "hm")
    means = np.nanmean(d[1:], axis=1)
    assert c.like.p == pytest.approx(scipy.stats.ttest_1samp(means, 0.0).pvalue)
    assert c.these.p == stats.stratified_t(d).p
    table = main_table(results)
    assert table.cells["Full", AVERAGE, "hm"].mean is None
    assert score_text(table.cells["Full", "data/set0", "hm"]) == "-"
    assert table.cells["CoOp", "data/set1", "hm"].n == 4
    assert table.cells["CoOp", AVERAGE, "hm"].n == 4
    means = [np.nanmean(row) for row in results.scores("CoOp", "hm")]
    assert table.cells["CoOp", AVERAGE, "hm"].mean == pytest.approx(np.mean(means))


def test_identical_and_constant_differences(study):
    effects = {"CoOp": (0, 0), "Same": (0, 0), "Shift": (8, 8)}
    folder = make_study(study, effects, noise=0)
    blocks = compare_all(load_study(folder), QUICK)
    same, shift = comparison(blocks, "Same", "base"), comparison(blocks, "Shift", "base")
    assert same.difference == 0 and same.reason == IDENTICAL and same.wilcoxon_p == 1.0
    for claim in (same.these, same.like):
        assert (claim.word, claim.p, claim.interval) == ("equivalent", 1.0, None)
    assert shift.reason == CONSTANT and shift.difference == pytest.approx(0.02)
    for claim in (shift.these, shift.like):
        assert (claim.word, claim.p, claim.holm_p, claim.interval) == ("undecided", *[None] * 3)


def test_inert_copies_and_other_regimes_do_not_enlarge_the_family(study):
    effects = {"CoOp": (0, 0), "Full": (8, 12), "Copy": (8, 12), "CoOpCopy": (0, 0), "KD": (20, 20)}
    folder = make_study(
        study, effects, inert={"Copy": "Full", "CoOpCopy": "CoOp"}, regimes={"KD": "transductive"}
    )
    results = load_study(folder)
    blocks = compare_all(results, QUICK)
    assert comparison(blocks, "Full").family_size == 1
    reasons = {c.variant: c.reason for c in blocks[0].comparisons["hm"]}
    assert reasons["Copy"] == "inert: the same runs as Full, which is counted instead"
    assert reasons["CoOpCopy"] == "inert: the same runs as CoOp"
    assert reasons["KD"] == "regime 'transductive' against 'inductive'"
    table = main_table(results)
    assert table.cells["KD", AVERAGE, "hm"].mark == ""
    assert table.cells["Full", AVERAGE, "hm"].mark == "best"
    assert table.cells["Copy", AVERAGE, "hm"].mark == "best"
    assert table.cells["CoOp", AVERAGE, "hm"].mark == "second"


def test_main_table_by_hand(tmp_path):
    path = tmp_path / "two.csv"
    rows = ["A,d1,1,80,60", "A,d1,2,82,64", "A,d2,1,40,90", "A,d2,2,44,88"]
    path.write_text("variant,dataset,seed,base,new\n" + "\n".join(rows) + "\n")
    cells = main_table(load_csv(path)).cells
    cell = cells["A", AVERAGE, "base"]
    assert cell.mean == pytest.approx(0.615) and cell.n == 2
    assert cell.half_width == pytest.approx(12.706204736174694 * 0.015, rel=1e-9)
    assert cells["A", AVERAGE, HM_OF_MEANS].mean == pytest.approx(
        2 * 0.615 * 0.755 / (0.615 + 0.755)
    )
    hms = [2 * b * n / (b + n) for b, n in ((0.8, 0.6), (0.82, 0.64), (0.4, 0.9), (0.44, 0.88))]
    assert cells["A", AVERAGE, "hm"].mean == pytest.approx(np.mean(hms))


def test_published_averages_of_coop_under_both_conventions(tmp_path):
    """Zhou et al., IJCV 2022 (arXiv 2109.01134), base-to-new as printed by later papers: the
    average HM of 71.66 is the HM of the mean accuracies; the mean of the eleven HMs is 70.83.
    """
    base = [76.47, 98.00, 93.67, 78.12, 97.60, 88.33, 40.44, 80.60, 79.44, 92.19, 84.69]
    new = [67.88, 89.81, 95.29, 60.40, 59.67, 82.26, 22.30, 65.89, 41.18, 54.74, 56.05]
    rows = [f"CoOp,d{i},{b},{n}" for i, (b, n) in enumerate(zip(base, new, strict=True))]
    path = tmp_path / "coop.csv"
    path.write_text("variant,dataset,base,new\n" + "\n".join(rows) + "\n")
    cells = main_table(load_csv(path)).cells
    printed = {
        m: points(cells["CoOp", AVERAGE, m].mean) for m in ("base", "new", "hm", HM_OF_MEANS)
    }
    assert printed == {"base": "82.69", "new": "63.22", "hm": "70.83", HM_OF_MEANS: "71.66"}


SMALL = [
    {"datasets": 1, "seeds": 1},
    {"datasets": 2, "seeds": 1},
    {"datasets": 2, "seeds": 3},
    {"datasets": 1, "seeds": 5},
    {"datasets": 6, "seeds": 2, "noise": 0},
]


@pytest.mark.parametrize("shape", SMALL)
def test_small_and_degenerate_studies_never_print_nan(study, shape):
    effects = {"CoOp": (0, 0), "Same": (0, 0), "Zero": (-20, 9)}
    folder = make_study(study, effects, constant=("Zero",), **shape)
    report = build_report(folder, out=folder / "report", options=QUICK, figures=False)
    for path in sorted((folder / "report").glob("*.*")):
        if path.suffix != ".png":
            assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", path.read_text()), path.name
    assert not any(re.search(r"\bnan\b", line) for line in summary_lines(report))


def test_report_is_complete_escaped_and_offline(study, capsys):
    names = ["Co_Op & 50%", "x<b>y</b>", "$a$|`c`*d*"]
    effects = dict(zip(names, [(0, 0), (8, 12), (1, 1)], strict=True))
    status = {("x<b>y</b>", "mosaic/set1", 2): ("diverged", "loss was nan & 'more' <i>")}
    folder = make_study(
        study,
        effects,
        prefix="mosaic/",
        status=status,
        references=(names[1],),
        batch_coupled=names[2:],
    )
    report = build_report(folder, out=folder / "report", options=QUICK, figures=False)
    page = report.page.read_text()
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "<b>y</b>" not in page and "<i>" not in page
    for name in names:
        assert html.escape(name, quote=False) in page or html.escape(name) in page
    assert "1 diverged" in page and "batch-coupled" in page and html.escape(EMBEDDED_CAVEAT) in page
    assert 'href="../000001/"' in page and (folder / "report" / "../000001").is_dir()
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    drawn = [len(f.panels) + (f.shared_rows or not f.panels) for f in report.figures.values()]
    rows = report.section("headline").table("answer").rows
    assert page.count("<svg ") == sum(drawn) + len(rows) == sum(drawn) + 2
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert used <= set(ids)
    markdown = (folder / "report" / "report.md").read_text()
    assert escape_markdown("x<b>y</b>") in markdown and "train_seconds" not in markdown
    written = {p.name for p in (folder / "report").iterdir()}
    assert written == {
        "index.html", "report.md", "report.tex", "references.bib", "report.json",
        "report.schema.json",
        "results.csv", "comparisons.csv", "evidence.csv", "scores.csv", "cost.csv",
    }  # fmt: skip


def test_second_build_and_other_order_give_the_same_bytes(study, tmp_path):
    effects = {"CoOp": (0, 0), "Full": (8, 12)}
    folder = make_study(study, effects, datasets=3)
    build_report(folder, out=tmp_path / "one", options=QUICK, figures=False)
    for path in sorted(folder.glob("*/record.json"), reverse=True):
        record = read_record(path.parent)
        path.unlink()
        slower = replace(record.cost, train_seconds=99.0, total_seconds=120.0)
        write_record(path.parent, replace(record, cost=slower))
    build_report(folder, out=tmp_path / "two", options=QUICK, figures=False)
    for name in (
        "report.json",
        "results.csv",
        "comparisons.csv",
        "scores.csv",
        "evidence.csv",
        "report.tex",
        "report.md",
    ):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), (
            name
        )
    assert (tmp_path / "one" / "cost.csv").read_text() != (
        tmp_path / "two" / "cost.csv"
    ).read_text()
    pages = [(tmp_path / part / "index.html").read_text() for part in ("one", "two")]
    bare = [re.sub(r'<section id="cost">.*?</section>', "", page, flags=re.S) for page in pages]
    assert bare[0] == bare[1] and pages[0] != pages[1]


def test_json_and_csv_hold_fractions_and_the_scores_can_be_read_again(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, datasets=3)
    report = build_report(folder, out=folder / "report", options=QUICK, figures=False)
    raw = json.loads((folder / "report" / "report.json").read_text())
    assert raw == report.to_dict() and raw["schema_version"] == 3
    told = raw["sections"]["comparisons"]["tables"]["comparisons"]
    row = next(r for r in told if r["metric"] == "hm")
    assert (
        row["variant"] == "Full"
        and row["these_interval_low"] < row["difference"] < row["these_interval_high"] < 1
        and row["these_verdict"] == "better"
    )
    assert "train_seconds" not in json.dumps(raw) and "/" not in raw["study"]
    with (folder / "report" / "comparisons.csv").open() as file:
        assert [r["metric"] for r in csv.DictReader(file)] == ["base", "new", "hm", "hm_of_means"]
    again = load_csv(folder / "report" / "scores.csv")
    for metric in ("base", "new", "hm"):
        np.testing.assert_allclose(
            again.scores("Full", metric), report.results.scores("Full", metric), atol=1e-9
        )
    assert not again.problems and "the given column agrees" in again.notes[0]


def test_cross_dataset_and_single_variant_reports(study, tmp_path):
    report = build_report(
        cross_dataset(study), out=tmp_path / "cross", options=QUICK, figures=False
    )
    over_seeds, over_datasets = report.section("headline").sentences
    for said, where in ((over_seeds, "these 2 datasets"), (over_datasets, "datasets like these")):
        assert said.kind == "undecided" and said.text == (
            f"On {where}, whether Full is better than CoOp is undecided: +2.50 points of accuracy "
            "(the differences do not vary: t is not defined)."
        )
    assert report.results.primary_metric == "accuracy"
    folder = make_study(tmp_path / "one", {"CoOp": (0, 0)}, datasets=2, seeds=2)
    lonely = build_report(folder, out=folder / "report", options=QUICK, figures=False)
    assert lonely.section("headline").text.startswith("There is only one variant")
    assert "forest" not in lonely.figures


def test_terminal_summary(study, capsys):
    from rich.console import Console

    folder = make_study(
        study,
        {"CoOp": (0, 0), "[red]x[/red]": (8, 12)},
        datasets=3,
        skip=(("CoOp", "data/set0", 1),),
    )
    report = build_report(folder, out=folder / "report", options=QUICK, figures=False)
    print_report(report, Console(width=60))
    text = capsys.readouterr().out
    assert "On these 3 datasets, [red]x[/red] is better than CoOp: +" in text
    assert "On datasets like these, " in text and "On these datasets" in text
    assert "Planned cells without a score: 1" in text and str(report.page) in text
    assert "average HM of means" in text


def test_options_are_checked(study):
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 5"):
        Options(alpha=5)
    with pytest.raises(ValueError, match="reps must be at least 100"):
        Options(reps=10)
    folder = edit_manifest(
        make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, datasets=1), study="s"
    )
    with pytest.raises(ValueError, match="reference must be one of the variants, got 'Ful'"):
        build_report(folder, out=folder / "report", references=["Ful"])
    assert not (folder / "report").exists()


def test_formats():
    assert points(-0.00001, sign=True) == "0.00" and points(0.0123, sign=True) == "+1.23"
    assert points(None) == "-" and p_text(None) == "n/a" and p_text(0.0004) == "<0.001"
    assert p_text(0.04) == "0.040"

"""The page, its files and its numbers: complete, self-contained, escaped, and never nan."""

import html
import json
import re

import numpy as np
import pytest

from analysis import stats
from analysis.read.csv_file import load_csv
from analysis.read.study_folder import load_study
from analysis.report import CHAPTERS, build_report, report_schema
from analysis.sections.analysis import Options
from analysis.sections.comparisons import compare_all
from analysis.sections.pairwise import paired, standing
from analysis.sections.parts import parts
from tests.helpers.json_schema import assert_matches_schema
from tests.helpers.report_pages import Element, read_page
from tests.helpers.report_studies import EVIL, TOGETHER, WORTH, evil_study, toggle_study
from tests.helpers.study_folders import make_study

QUICK = Options(reps=300)
OUTSIDE = re.compile(r"""(?:src|href)\s*=\s*["'](?:https?:|//|file:)|@import|url\((?!#)""", re.I)
MAIN = ("results", "where", "parts", "cost")
DETAILS = (
    "design", "comparisons", "pairs", "power", "spread", "further", "classes", "settings",
    "methods", "runs", "versions",
)  # fmt: skip


def absent(report):
    """Why sections do not apply, by their keys."""
    return {section.key: section.reason for section in report.sections if section.reason}


@pytest.fixture(scope="module")
def toggle(tmp_path_factory):
    """The report of a toggle grid."""
    folder = toggle_study(tmp_path_factory.mktemp("toggle") / "grid", datasets=6, seeds=3)
    return build_report(folder, out=folder / "report", options=QUICK, figures=False)


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    folder = evil_study(tmp_path_factory.mktemp("evil") / "names", datasets=2, seeds=2)
    return build_report(folder, out=folder / "report", options=QUICK, figures=False)


def test_every_box_is_there_and_nothing_comes_from_outside(toggle):
    page, tree = toggle.page.read_text(), read_page(toggle.page)
    assert tuple(e.attributes["id"] for e in tree.all("section")) == MAIN
    folded = tree.by_id("details")
    chapters = [e for e in folded.children if isinstance(e, Element) and e.tag == "details"]
    assert tuple(e.attributes["id"] for e in chapters) == DETAILS
    assert not any("open" in e.attributes for e in tree.all("details"))
    assert not OUTSIDE.search(page) and "<script" not in page.lower()
    assert not re.search(r"\son\w+\s*=", re.sub(r">[^<]*<", "><", page))
    assert "@media (prefers-color-scheme: dark)" in page and 'name="viewport"' in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    assert page.count("python main.py rerun ") == len(toggle.results.runs) == 8 * 6 * 3


def test_every_number_of_the_main_table_leads_to_its_runs(toggle):
    page, tree = toggle.page.read_text(), read_page(toggle.page)
    shown, every = tree.by_id("results").all("table")
    for table, numbers in ((shown, 3 + 6), (every, 4 + 6 * 3)):
        links = table.all("a", "number")
        assert len(links) == 8 * numbers
        assert all(tree.by_id(link.attributes["href"][1:]) for link in links[:: len(links) // 20])
    variant = toggle.results.variants.index("full")
    row = page[page.index(f'id="c{variant}-2"') :]
    assert "full" in row[:200] and "data/set2" in row[:300] and "main.py rerun" in row[:900]


def test_every_figure_is_a_png_and_a_pdf(tmp_path):
    folder = make_study(tmp_path / "s", {"CoOp": (0, 0), "Full": (8, 8)}, datasets=1, seeds=2)
    report = build_report(folder, out=tmp_path / "out", options=QUICK)
    written = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert written == {f"{n}.{end}" for n in report.figures for end in ("png", "pdf")}
    for path in (tmp_path / "out" / "figures").iterdir():
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")


def test_the_figures_are_in_the_page_or_say_why_not(toggle):
    names = {"base_new", "forest", "forest_2", "difference_heatmap", "pairwise_heatmap",
             "critical_difference", "attribution", "variance_shares", "interaction",
             "seed_scatter", "profiles", "cost", "classes"}  # fmt: skip
    assert set(toggle.figures) == names
    assert absent(toggle)["shot_curves"] == "the study has a single number of shots"
    page = toggle.page.read_text()
    for name in names:
        assert f'id="figure-{name}"' in page
    svgs = re.findall(r"<svg .*?</svg>", page, re.S)
    assert len(svgs) >= 18 and all("#010203" not in svg for svg in svgs)


def test_attribution_adds_up_and_finds_what_was_put_in(toggle):
    shares = parts(toggle.analysis).attribution
    values = {e.parts[0]: e.value for e in shares.of("shapley")}
    assert sum(values.values()) == pytest.approx(shares.full - shares.base)
    for part, worth in zip(("cache", "aggregation", "semantic"), WORTH, strict=True):
        expected = (worth + (TOGETHER / 2 if part != "semantic" else 0)) / 400
        assert values[part] == pytest.approx(expected, abs=0.004)
    pair = next(e for e in shares.of("interaction") if set(e.parts) == {"cache", "aggregation"})
    assert pair.value == pytest.approx(TOGETHER / 400, abs=0.006)


def test_marks_say_how_a_variant_stands_to_the_best(toggle):
    pairs = paired(toggle.analysis)["hm"]
    best = pairs.variants[pairs.best]
    assert best == "-semantic" and standing(toggle.analysis, best, "hm") == ""
    assert standing(toggle.analysis, "none", "hm") == "†"
    assert '<span class="standing">†</span>' in toggle.page.read_text()


def test_the_json_follows_its_schema_and_holds_every_figure(toggle, evil):
    for report in (toggle, evil):
        raw = json.loads((report.out / "report.json").read_text())
        assert_matches_schema(raw, report_schema())
        figures = [name for s in raw["sections"].values() for name in s["figures"]]
        assert set(figures) == set(report.figures) - {"cost"} and len(set(figures)) == len(figures)
        reasons = {key: s["reason"] for key, s in raw["sections"].items() if s["reason"]}
        assert reasons.items() <= absent(report).items()
    with pytest.raises(AssertionError, match="not documented"):
        assert_matches_schema({**raw, "more": 1}, report_schema())


def test_every_column_of_the_files_says_what_it_is():
    """The schema has a rule for every key, and topics have keys of their own."""
    topics = [topic for chapter in CHAPTERS for topic in chapter.topics]
    assert len({topic.key for topic in topics}) == len(topics)
    for section in report_schema()["properties"]["sections"]["properties"].values():
        for rule in section["properties"]["tables"]["properties"].values():
            assert rule["items"]["required"] == list(rule["items"]["properties"])


def test_names_that_are_markup_stay_text(evil):
    page = evil.page.read_text()
    for name in EVIL:
        assert html.escape(name, quote=False) in page or html.escape(name) in page
    assert "<script" not in page.lower() and "<b>/" not in page and not OUTSIDE.search(page)


DEGENERATE = {
    "one run each": {"datasets": 1, "seeds": 1},
    "one dataset": {"datasets": 1, "seeds": 3},
    "one seed": {"datasets": 2, "seeds": 1},
    "constant": {"datasets": 6, "seeds": 2, "noise": 0},
    "a hole": {"datasets": 2, "seeds": 1, "skip": (("Full", "data/set0", 1),)},
}  # fmt: skip


@pytest.mark.parametrize("case", DEGENERATE)
def test_small_studies_say_what_is_not_applicable(tmp_path, case):
    effects = {"CoOp": (0, 0), "Same": (0, 0), "Full": (8, 8)}
    folder = make_study(tmp_path / "s", effects, constant=(), **DEGENERATE[case])
    report = build_report(folder, out=tmp_path / "out", options=QUICK, figures=False)
    for path in (tmp_path / "out").iterdir():
        assert not re.search(r"\b(nan|inf|NaN|Infinity|None)\b", path.read_text()), path.name
    page = report.page.read_text()
    assert absent(report)["attribution"] and len(absent(report)) > 5
    for reason in absent(report).values():
        assert f"<dd>{reason}</dd>" in html.unescape(page), reason
    if paired(report.analysis)["hm"].ranks is None:
        assert "mean ranks need two datasets" in page


def test_thirty_variants_and_a_file_without_seeds(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        f"method_{v},d{d},{60 + v / 10 + rng.normal():.2f}" for v in range(30) for d in range(3)
    ]
    path = tmp_path / "anybody.csv"
    path.write_text("variant,dataset,accuracy\n" + "\n".join(lines) + "\n")
    report = build_report(path, out=tmp_path / "out", options=QUICK, figures=False)
    page = report.page.read_text()
    assert absent(report)["cost"] == "the source does not record costs"
    assert "method_29" in page and "<dd>the source does not record costs</dd>" in page
    assert not re.search(r"\bnan\b", page) and "main.py rerun" not in page


def test_verdicts_follow_alpha_and_the_region(tmp_path):
    effects = {"CoOp": (0, 0), "Same": (1, 0), "Full": (20, 20)}
    results = load_study(make_study(tmp_path / "s", effects, datasets=8, seeds=4))

    def claims(**options):
        same, full = compare_all(results, Options(reps=300, **options))[0].comparisons["hm"]
        return same, full

    same, full = claims()
    assert {same.these.word, same.like.word} == {"equivalent"}
    assert {full.these.word, full.like.word} == {"better"}
    for scope in ("these", "like"):
        pair = [getattr(c, scope) for c in (same, full)]
        assert [c.holm_p for c in pair] == stats.holm([c.p for c in pair])
        assert pair[0].equivalence_p < 0.05 < pair[1].equivalence_p
    narrow, _ = claims(rope=0.0001)
    assert {narrow.these.word, narrow.like.word} == {"undecided"}
    none, still = claims(rope=0.0)
    assert none.these.word == none.like.word == "undecided" and still.these.word == "better"
    assert none.these.equivalence_p is None is none.like.equivalence_p
    strict = claims(alpha=min(full.these.holm_p, full.like.holm_p) / 2)
    assert {c.these.word for c in strict} | {c.like.word for c in strict} == {"undecided"}
    with pytest.raises(ValueError, match=r"rope must be a fraction from 0 to below 1, got 1\.0"):
        Options(rope=1.0)


def test_the_same_numbers_give_the_same_figures(toggle, tmp_path):
    from analysis.figures.drawing import to_files, to_svg

    figure = toggle.figures["attribution"]
    assert to_svg(figure, prefix="a") == to_svg(figure, prefix="a")
    assert to_files(figure) == to_files(figure)
    assert load_csv(toggle.out / "scores.csv").variants == toggle.results.variants

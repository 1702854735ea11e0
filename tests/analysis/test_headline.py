"""The answer: one sentence per scope, the rows of its table, and what has to be known beside it."""

import json
import re
from dataclasses import replace

import pytest

from analysis.read.csv_file import load_csv
from analysis.read.study_folder import load_study
from analysis.report import build_report, summary_lines
from analysis.sections.analysis import Options
from analysis.sections.answers import METHOD, PART, VARIANT, answers
from analysis.sections.comparisons import compare_all
from analysis.sections.headline import EMBEDDED_CAVEAT, headline, question, remarks
from analysis.stats import Interval
from analysis.text import Effect, Kind, Ruling, cell_text, interval_text, points
from tests.helpers.report_pages import read_page, rows_of
from tests.helpers.report_studies import REFINED, REFINER, leave_one_out_study
from tests.helpers.study_folders import edit_record, make_study

QUICK = Options(reps=100)
MAX_WORDS = 700


def told(results, options=QUICK):
    """The sentences and the rows of a study."""
    blocks = compare_all(results, options)
    rows = answers(results, blocks)
    return headline(results, blocks, options.alpha, rows), rows


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The report of a study that is made like the demo: 8 variants on 4 datasets."""
    folder = leave_one_out_study(tmp_path_factory.mktemp("demo") / "demo")
    return build_report(folder, out=folder / "report", options=QUICK, figures=False)


def test_training_on_test_images_comes_first(tmp_path):
    effects, regimes = {"CoOp": (0, 0), "Full": (8, 12)}, {"Full": "transductive"}
    folder = make_study(tmp_path / "s", effects, datasets=2, seeds=2, regimes=regimes)
    for path in folder.glob("*/record.json"):
        edit_record(path, lambda raw: raw.update(shared_images=3))
    said, _ = told(load_study(folder))
    assert [(s.kind, s.text) for s in said[:2]] == [
        ("flag", "Training saw test images, so these numbers are too high: CoOp (3 images)."),
        ("flag", "Training saw test images without their labels: Full (3 images)."),
    ]


def test_the_rows_are_methods_then_their_parts_then_other_variants(demo):
    _, rows = told(demo.results)
    roles = [row.role for row in rows]
    assert roles == [METHOD, *[PART] * 5, VARIANT]
    assert (rows[0].name, rows[0].against) == (REFINER, "CoOp") and rows[-1].name == "ZeroShot"
    gains = [row.c.difference for row in rows if row.role == PART]
    assert gains == sorted(gains, reverse=True)
    for row in rows:
        assert row.c.reference == row.against
        if row.role == PART:
            part = row.name.removesuffix(f" in {REFINER}")
            assert row.against == f"minus {part}" and part in REFINED
            assert row.c.variant == REFINER
    assert question(demo.results, rows) == f"Does {REFINER} beat CoOp, and which part helps?"


def test_one_sentence_per_scope_with_the_numbers_of_the_comparisons(demo):
    said, (method, *rows) = told(demo.results)
    assert [s.text.partition(",")[0] for s in said] == [
        "On these 4 datasets",
        "On datasets like these",
    ]
    for sentence, scope in zip(said, ("these", "like"), strict=True):
        claim = getattr(method.c, scope)
        assert sentence.kind == claim.word
        number = f"{points(method.c.difference, sign=True)} points of HM"
        assert f"{number} {interval_text(claim.interval)}" in sentence.text
        for row in rows[:5]:
            own, part = getattr(row.c, scope), row.name.removesuffix(f" in {REFINER}")
            assert part in sentence.text
            ends = f"({points(row.c.difference, sign=True)} {interval_text(own.interval)})"
            assert (f"{part} {ends}" in sentence.text) is own.decided
    helps = [row.name.split()[0] for row in rows[:5] if row.c.these.word == "better"]
    assert helps[0] == "aggregation" and "Of its parts, aggregation (" in said[0].text


def test_the_first_screen_is_question_sentences_and_the_table(demo):
    page = read_page(demo.page)
    header = page.all("header")[0]
    (h1,) = header.all("h1")
    assert h1.text() == question(demo.results, told(demo.results)[1])
    found = [li.text()[1:].strip() for li in header.all("li")]  # after the mark
    for sentence, shown in zip(demo.section("headline").sentences, found, strict=False):
        assert sentence.text.replace("-", "−") == shown.replace("-", "−").replace("\u00a0", " ")
    (answer,) = header.all("table", "answer")
    assert len(rows_of(answer)) == 7 == len(answer.all("svg"))
    for row, tr in zip(told(demo.results)[1], answer.all("tbody")[0].all("tr"), strict=True):
        chips = [chip.text().split()[1] for chip in tr.all("span", "chip")]
        assert chips == [row.c.these.word, row.c.like.word]


def test_the_page_of_a_demo_is_short_while_its_details_are_closed(demo):
    """Every token counts, those of figures and tables too."""
    shown = read_page(demo.page).text(unfolded=True)
    assert len(shown.split()) <= MAX_WORDS
    assert "not applicable" not in shown.lower() and "Left out, and why" not in shown


def test_every_format_has_both_scopes(demo):
    said = [s.text for s in demo.section("headline").sentences]
    text = {name: (demo.out / name).read_text() for name in ("report.md", "report.tex")}
    for sentence in said:
        start = re.match(r"On [a-z0-9 ]+", sentence)[0]
        assert all(start in found for found in text.values())
        assert any(sentence in line for line in summary_lines(demo))
    for found in (*text.values(), "\n".join(summary_lines(demo))):
        assert "On these datasets" in found and "On datasets like these" in found
    raw = json.loads((demo.out / "report.json").read_text())["sections"]
    assert [s["text"] for s in raw["headline"]["sentences"]] == said
    assert [s["text"] for s in raw["remarks"]["sentences"]] == [
        s.text for s in demo.section("remarks").sentences
    ]
    (row, *_) = raw["headline"]["tables"]["answer"]
    assert (row["variant"], row["reference"]) == (REFINER, "CoOp")


def test_variants_without_a_full_method_stand_against_the_baseline(tmp_path):
    effects = {"CoOp": (0, 0), "Some": (2, 3), "Big": (12, 12), "Worse": (-12, -12)}
    results = load_study(make_study(tmp_path / "s", effects, datasets=4))
    said, rows = told(results)
    assert [row.name for row in rows] == ["Big", "Some", "Worse"]
    assert {row.role for row in rows} == {VARIANT}
    assert question(results, rows) == "Is any of 3 variants better than CoOp?"
    assert said[0].text.startswith("On these 4 datasets, against CoOp (points of HM), Big (+")
    assert "Worse (-" in said[0].text and said[0].text.count("[") == 3


def test_what_nothing_is_known_about_is_said_once(tmp_path):
    effects = {"CoOp": (0, 0), "Full": (8, 12)}
    one_dataset = load_study(make_study(tmp_path / "a", effects, datasets=1))
    texts = [s.text for s in told(one_dataset)[0]]
    assert texts[0].startswith("On this dataset, Full is better than CoOp: +")
    assert texts[1:] == ["Nothing is known about other datasets, because there is only one."]
    one_seed = load_study(make_study(tmp_path / "b", effects, datasets=5, seeds=1))
    texts = [s.text for s in told(one_seed)[0]]
    assert texts[0] == "Nothing is known about other seeds, because there is one run per dataset."
    assert texts[1].startswith("On datasets like these, Full is better than CoOp: +")
    lonely = load_study(make_study(tmp_path / "c", {"CoOp": (0, 0)}, datasets=1, seeds=1))
    (only,), rows = told(lonely)
    assert only.text.startswith("There is only one variant") and rows == []
    assert question(lonely, rows) == ""


def test_an_undecided_method_says_how_many_datasets_would_tell(tmp_path):
    path = tmp_path / "s.csv"
    gains = {"d0": 0.1, "d1": 3.0, "d2": 0.9, "d3": 2.2}
    lines = [
        f"{v},{d},{s},{60 + (gain if v == 'B' else 0) + 0.1 * s * (1 + (v == 'B'))}"
        for v in "AB"
        for d, gain in gains.items()
        for s in range(3)
    ]
    path.write_text("variant,dataset,seed,accuracy\n" + "\n".join(lines) + "\n")
    said, (row,) = told(load_csv(path))
    assert (row.c.these.word, row.c.like.word) == ("better", "undecided")
    assert "would tell" not in said[0].text
    needed = re.search(r"\(about (\d+) datasets would tell, if it is real\)", said[1].text)
    assert int(needed[1]) > 4


def test_remarks_name_what_an_average_hides(tmp_path):
    path = tmp_path / "s.csv"
    lines = [
        f"{v},{d},{s},{60 + (gain + 0.1 * (-1) ** s if v == 'B' else 0)}"
        for v in "AB"
        for d, gain in {"up": 2.0, "down": -2.0, "flat": 0.0}.items()
        for s in range(4)
    ]
    path.write_text("variant,dataset,seed,accuracy\n" + "\n".join(lines) + "\n")
    results = load_csv(path)
    _, rows = told(results)
    assert rows[0].c.these.word == "equivalent" and rows[0].c.outside == ("up", "down")
    texts = [s.text for s in remarks(results, rows, 0.01)]
    assert "difference of more than 1.00 points is possible for B on up and down." in texts[0]
    embedded = replace(results, datasets=("mosaic/a",))
    assert [s.text for s in remarks(embedded, [], 0.01)] == [EMBEDDED_CAVEAT]
    _, none = told(results, Options(reps=100, rope=0.0))
    assert none[0].c.outside == () or none[0].c.these.word != "equivalent"


def test_ruling_effect_and_ratio_are_written_with_their_signs():
    ends = Interval(-0.0123, 0.004)
    assert cell_text(Ruling("undecided", ends), Kind.RULING) == "undecided [-1.23, +0.40]"
    assert cell_text(Ruling("no test", None), Kind.RULING) == "no test"
    effect = Effect(value=-0.004, these=ends, like=None, word="worse", extent=0.02, rope=0.01)
    assert cell_text(effect, Kind.EFFECT) == "-0.40"
    assert cell_text(1.5, Kind.RATIO) == "×1.50" and cell_text(None, Kind.RATIO) == "-"

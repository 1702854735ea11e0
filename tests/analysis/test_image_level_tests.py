"""Image by image: McNemar and Cochran on real bits, what is refused, and where it is shown."""

import inspect
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binomtest, chi2
from statsmodels.stats.contingency_tables import cochrans_q, mcnemar
from typer.testing import CliRunner

import main
from analysis.read.csv_file import load_csv
from analysis.read.results import with_choices
from analysis.read.study_folder import load_study
from analysis.report import build_report, report_schema
from analysis.sections import image_runs
from analysis.sections.analysis import MAX_IMAGE_RUNS, Options
from analysis.sections.comparisons import compare_all, compared
from analysis.sections.images import (
    compared_images,
    image_sentences,
    image_tests,
    omnibus_tables,
    pair_tables,
)
from analysis.sections.run_pair import score_rows
from core.store import CorrectImages, read_correct_images, read_record, write_correct_images
from experiments.cli.report import report_command
from tests.helpers.json_schema import assert_matches_schema
from tests.helpers.report_pages import read_page, rows_of
from tests.helpers.report_studies import EVIL
from tests.helpers.study_folders import make_study

QUICK = Options(reps=100)


def with_images(folder, lists=None, skip=()):
    """Give every run of a study the images that it got right: easy ones first, with noise of its
    own. ``lists`` names another test list of a run, ``skip`` runs without the file.
    """
    for path in sorted(folder.glob("*/record.json")):
        record = read_record(path.parent)
        if record.identity in skip:
            continue
        found = []
        for e in record.evaluations:
            easy = np.random.default_rng([ord(c) for c in f"{record.dataset} {e.target}"])
            noise = np.random.default_rng([ord(c) for c in f"{record.identity} {e.target}"])
            score = easy.normal(size=sum(e.total)) + 0.2 * noise.normal(size=sum(e.total))
            right = np.zeros(sum(e.total), bool)
            right[np.argsort(-score)[: sum(e.correct)]] = True
            found.append(
                CorrectImages(
                    target=e.target,
                    test_list=(lists or {}).get(record.identity, f"{record.dataset} {e.target}"),
                    num_images=sum(e.total),
                    bits=np.packbits(right).tobytes(),
                )
            )
        write_correct_images(path.parent, found)
    return folder


def right(folder, identity, target):
    """The bits of a run, unpacked without the code that is tested."""
    found = read_correct_images(folder / identity)[target]
    text = "".join(f"{byte:08b}" for byte in found.bits)
    return np.array([bit == "1" for bit in text[: found.num_images]])


def view_of(folder, **options):
    return image_tests(load_study(folder), folder, **options)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One dataset, one seed, three variants and the one they are held against."""
    effects = {"CoOp": (0, 0), "A": (30, 2), "B": (-4, -3), "C": (0, 25)}
    shape = {"datasets": 1, "seeds": 1, "noise": 0}
    return with_images(make_study(tmp_path_factory.mktemp("one") / "one", effects, **shape))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    effects = {"CoOp": (0, 0), "A": (40, 2), "B": (-4, -3)}
    folder = make_study(tmp_path_factory.mktemp("many") / "many", effects, datasets=2, seeds=5)
    return with_images(folder)


def test_every_pair_is_mcnemars_exact_test(one):
    view = view_of(one)
    assert [(p.variant, p.target) for p in view.pairs] == [
        (v, t) for t in ("base", "new") for v in ("A", "B", "C")
    ]
    records = {record.variant: record for record in map(read_record, one.glob("0*"))}
    for pair in view.pairs:
        mine, other = (right(one, records[v].identity, pair.target) for v in (pair.variant, "CoOp"))
        assert pair.only_variant == (mine & ~other).sum()
        assert pair.only_baseline == (other & ~mine).sum()
        assert pair.images == 400 and pair.seed == 1 and pair.dataset == "data/set0"
        gap = records[pair.variant].accuracy(pair.target) - records["CoOp"].accuracy(pair.target)
        assert pair.difference == pytest.approx(gap, abs=1e-12)
        assert pair.interval.low < pair.difference < pair.interval.high
        differing = pair.only_variant + pair.only_baseline
        assert pair.p == pytest.approx(binomtest(pair.only_variant, differing).pvalue, rel=1e-9)
        table = [[(mine & other).sum(), pair.only_variant], [pair.only_baseline, 0]]
        assert pair.p == pytest.approx(min(1, mcnemar(np.array(table), exact=True).pvalue))
        assert pair.smallest_holm_p == pytest.approx(min(1, 3 * 2 * 0.5**differing))


def test_holm_counts_the_variants_of_a_target_and_every_seed(one, many):
    for folder, size in ((one, 3), (many, 10)):
        families = {}
        for pair in view_of(folder).pairs:
            families.setdefault((pair.dataset, pair.target), []).append(pair)
        assert {len(family) for family in families.values()} == {size}
        for family in families.values():
            ordered = sorted(family, key=lambda pair: pair.p)
            assert ordered[0].holm_p == pytest.approx(min(1, size * ordered[0].p))
            assert ordered[-1].holm_p >= ordered[-1].p
            assert all(a.holm_p <= b.holm_p for a, b in pairwise(ordered))


def test_cochrans_q_is_over_all_models_of_a_seed(one, many):
    for folder, models in ((one, 4), (many, 3)):
        view = view_of(folder)
        assert {len(row.variants) for row in view.omnibus} == {models}
        row = view.omnibus[-1]
        cells = json.loads((folder / "study.json").read_text())["cells"]
        names = [
            c["identity"] for c in cells if (c["dataset"], c["seed"]) == (row.dataset, row.seed)
        ]
        table = np.stack([right(folder, name, row.target) for name in names], axis=1).astype(int)
        columns, rows = table.sum(axis=0), table.sum(axis=1)
        k = models
        q = (k - 1) * (k * (columns**2).sum() - rows.sum() ** 2) / (k * rows - rows**2).sum()
        assert row.q == pytest.approx(q) == cochrans_q(table).statistic
        assert row.p == pytest.approx(chi2.sf(q, k - 1))
    assert len(view_of(many).omnibus) == 2 * 2 * 5


def test_two_models_have_no_q(tmp_path):
    folder = with_images(make_study(tmp_path / "s", {"CoOp": (0, 0), "A": (9, 9)}, datasets=1))
    assert all(row.q is None and "needs 3 models" in row.reason for row in view_of(folder).omnibus)


def test_runs_on_other_images_are_refused_with_the_reason(tmp_path):
    effects = {"CoOp": (0, 0), "A": (9, 9), "B": (5, 5)}
    folder = make_study(tmp_path / "s", effects, datasets=1, seeds=1)
    with_images(folder, lists={"010001": "another order"})
    view = view_of(folder)
    refused = [pair for pair in view.pairs if pair.variant == "A"]
    assert len(refused) == 2 and all(pair.p is None for pair in refused)
    assert all("not the same test images" in pair.reason for pair in refused)
    assert all(p.holm_p == p.p for p in view.pairs if p.variant == "B")  # a family of one test
    assert all(row.variants == ("CoOp", "B") and row.q is None for row in view.omnibus)
    rows = {row[0]: row[1:] for row in score_rows(folder / "000001", folder / "010001")}
    assert rows["base: images that only this run classifies correctly"][:2] == ("-", "-")
    assert (
        "not the same test images"
        in rows["base: images that only this run classifies correctly"][2]
    )


def test_old_folders_are_read_and_say_that_nothing_was_recorded(tmp_path):
    folder = make_study(tmp_path / "s", {"CoOp": (0, 0), "A": (9, 9)}, datasets=1, seeds=1)
    report = build_report(folder, out=tmp_path / "out", options=QUICK, figures=False)
    assert "were not recorded; rerun to record them" in report.section("images").reason
    for name in ("index.html", "report.md"):
        assert (
            "the correctly classified images were not recorded"
            in (tmp_path / "out" / name).read_text()
        )
    (row,) = (r for r in score_rows(folder / "000001", folder / "010001") if "images that" in r[0])
    assert row[1:3] == ("-", "-") and row[3].startswith(
        "n/a, 000001: the correctly classified images"
    )
    with_images(folder, skip=("010001",))
    assert "were not recorded" in view_of(folder).reason


def test_a_damaged_file_is_a_reason_and_not_the_end_of_the_report(tmp_path):
    effects = {"CoOp": (0, 0), "A": (9, 9), "B": (5, 5)}
    folder = with_images(make_study(tmp_path / "s", effects, datasets=1, seeds=1))
    (folder / "010001" / "correct.json").write_text("{")
    a, b = (tuple(p for p in view_of(folder).pairs if p.variant == v) for v in ("A", "B"))
    assert len(a) == 1 and a[0].reason.startswith("010001/correct.json cannot be read")
    assert len(b) == 2 and all(pair.p is not None for pair in b)
    assert "/tmp" not in a[0].reason and str(tmp_path) not in a[0].reason


def test_one_run_each_is_the_test_that_is_shown_and_the_methods_stay_undecided(one):
    report = build_report(one, out=one / "report", options=QUICK, figures=False)
    assert compared_images(report.analysis).one_seed
    c = next(c for c in compared(report.analysis)[0].comparisons["base"] if c.variant == "A")
    for claim in (c.these, c.like):
        assert (claim.word, claim.p, claim.interval) == ("undecided", None, None)
    told = report.section("headline").sentences[-1].text
    pairs = compared_images(report.analysis).pairs
    a = next(p for p in pairs if (p.variant, p.target) == ("A", "base"))
    assert a.holm_p < 0.05
    assert f"A alone is correct on {a.only_variant} of 400 images, CoOp alone on" in told
    assert "not about the methods" in told and "nothing more is known about these" in told
    assert "B alone" not in told
    box = read_page(report.page).by_id("images")
    assert not box.all("details") and "With one seed, nothing more is known" in box.text()
    assert [len(rows_of(table)) for table in box.all("table")] == [6, 2]
    assert "Cochran" in box.text() and "nan" not in box.text().lower()
    assert "mcnemar1947" in (one / "report" / "references.bib").read_text()
    assert "## Image by image" in (one / "report" / "report.md").read_text()


def test_nothing_to_tell_is_no_claim_of_equality(tmp_path):
    shape = {"datasets": 1, "seeds": 1, "noise": 0}
    folder = with_images(make_study(tmp_path / "s", {"CoOp": (0, 0), "A": (1, 1)}, **shape))
    report = build_report(folder, out=tmp_path / "out", options=QUICK, figures=False)
    told = report.section("headline").sentences[-1].text
    assert "no trained model is shown to differ from that of CoOp on any target" in told
    assert "not evidence that they are equal" in told


def test_one_seed_leaves_these_datasets_to_the_images_whatever_their_number(tmp_path):
    for datasets in (3, 6):
        effects = {"CoOp": (0, 0), "A": (40, 2)}
        folder = make_study(tmp_path / str(datasets), effects, datasets=datasets, seeds=1)
        results = load_study(with_images(folder))
        view = image_tests(results, folder)
        assert view.one_seed and len(view.pairs) == 2 * datasets
        assert len(image_sentences(view, 0.05)) == 1
        (c,) = compare_all(results, QUICK)[0].comparisons["hm"]
        assert c.these.p is None and c.like.p is not None
    folder = tmp_path / "3"
    (told,) = image_sentences(view_of(folder), 0.05)
    assert "on base of data/set0, A alone is correct on" in told.text


def test_other_designs_fold_it_and_count_seeds_without_pooling(many):
    report = build_report(many, out=many / "report", options=QUICK, figures=False)
    assert not compared_images(report.analysis).one_seed
    assert not any("Image by image" in s.text for s in report.section("headline").sentences)
    view = compared_images(report.analysis)
    table = pair_tables(view, 0.05)[0]
    header = [column.title for column in table.columns]
    assert len(table.rows) == 2 * 2 * 2 and "Seeds" in header
    row = next(r for r in table.texts() if r[:3] == ("A", "data/set0", "base"))
    pairs = [p for p in view.pairs if (p.variant, p.dataset, p.target) == row[:3]]
    more = sum(p.holm_p < 0.05 and p.difference > 0 for p in pairs)
    values = dict(zip(header, row, strict=True))
    assert values["More correct, p Holm < 0.05"] == f"{more} of 5" and more > 0
    assert values["Fewer correct, p Holm < 0.05"] == "0 of 5"
    low, _, high = values["Only the variant correct"].partition(" to ")
    assert (int(low), int(high)) == (
        min(p.only_variant for p in pairs),
        max(p.only_variant for p in pairs),
    )
    assert len(omnibus_tables(view, 0.05)[0].rows) == 4
    box = read_page(report.page).by_id("images")
    assert {len(folded.all("table")) for folded in box.all("details")} == {1}
    assert len(box.all("table")) == len(box.all("details"))
    assert "With one seed" not in box.text()
    assert "mcnemar1947" not in (many / "report" / "references.bib").read_text()


def test_few_seeds_have_a_row_each(tmp_path):
    folder = make_study(tmp_path / "s", {"CoOp": (0, 0), "A": (9, 9)}, datasets=2, seeds=3)
    (table,) = pair_tables(view_of(with_images(folder)), 0.05)
    place = [column.key for column in table.columns].index("seed")
    assert [row[place] for row in table.rows] == [1, 2, 3] * 4


def test_a_variant_without_seeds_meets_every_seed_once(tmp_path):
    effects = {"CoOp": (0, 0), "Zero": (-9, 9), "Also": (3, 3)}
    shape = {"datasets": 1, "seeds": 2, "constant": ("Zero", "Also")}
    folder = with_images(make_study(tmp_path / "s", effects, **shape))
    assert [(p.variant, p.seed) for p in view_of(folder).pairs if p.target == "base"] == [
        ("Zero", 1), ("Zero", 2), ("Also", 1), ("Also", 2),
    ]  # fmt: skip
    turned = image_tests(with_choices(load_study(folder), baseline="Zero"), folder)
    assert [(p.variant, p.seed) for p in turned.pairs if p.target == "base"] == [
        ("CoOp", 1), ("CoOp", 2), ("Also", None),
    ]  # fmt: skip
    assert [row.seed for row in turned.omnibus if row.target == "base"] == [1, 2]


def test_inert_copies_and_other_regimes_are_not_tested(tmp_path):
    effects = {"CoOp": (0, 0), "A": (9, 9), "Copy": (9, 9), "Free": (5, 5)}
    regimes = {"Free": "transductive"}
    folder = make_study(
        tmp_path / "s", effects, datasets=1, seeds=1, inert={"Copy": "A"}, regimes=regimes
    )
    view = view_of(with_images(folder))
    assert {p.variant for p in view.pairs} == {"A"}
    reasons = dict(view.left_out)
    assert reasons["Copy"] == "the same runs as A" and "regime" in reasons["Free"]


def test_a_large_study_is_not_read_and_says_how_to_get_it(many, monkeypatch):
    read = []
    monkeypatch.setattr(
        image_runs,
        "read_correct_images",
        lambda path: read.append(path) or read_correct_images(path),
    )
    view = view_of(many, most=29)
    assert read == [] and view.pairs == ()
    assert "30 runs would have to be read, and the limit is 29" in view.reason
    assert "--image-runs 30" in view.reason
    assert view_of(many, most=30).reason == "" and len(read) == len(set(read)) == 30
    default = inspect.signature(report_command).parameters["image_runs"].default
    assert default == MAX_IMAGE_RUNS
    done = CliRunner().invoke(
        main.app,
        ["report", str(many), "--out", str(many / "few"), "--no-figures", "--image-runs", "0"],
    )
    assert done.exit_code == 0
    assert "30 runs would have" in (many / "few" / "report.md").read_text()


def test_a_csv_has_no_images(tmp_path):
    (tmp_path / "x.csv").write_text("variant,dataset,seed,hm\na,d,1,70\nb,d,1,71\n")
    view = image_tests(load_csv(tmp_path / "x.csv"), None)
    assert view.reason == "tests on images need a study folder, which records them"


def test_the_json_has_every_test_and_names_stay_text(tmp_path):
    effects = {name: (4 * i, 4 * i) for i, name in enumerate(EVIL)}
    folder = with_images(make_study(tmp_path / "s", effects, datasets=1, seeds=1))
    report = build_report(folder, out=tmp_path / "out", options=QUICK, figures=False)
    raw = json.loads((tmp_path / "out" / "report.json").read_text())["sections"]["images"]
    assert_matches_schema(raw, report_schema()["properties"]["sections"]["properties"]["images"])
    tables, view = raw["tables"], compared_images(report.analysis)
    assert len(tables["mcnemar"]) == 6 and len(tables["cochran"]) == 2
    assert [row["p"] for row in tables["mcnemar"]] == pytest.approx(
        [p.p for p in view.pairs], rel=1e-5
    )
    assert tables["scope"][0]["one_seed"] is True
    page = report.page.read_text()
    assert "<script" not in page.lower() and "&lt;script&gt;" in page


def test_two_runs_side_by_side(one):
    rows = {row[0]: row[1:] for row in score_rows(one / "000001", one / "010001")}
    pair = next(p for p in view_of(one).pairs if (p.variant, p.target) == ("A", "base"))
    first, second, p = rows["base: images that only this run classifies correctly"]
    assert (int(first), int(second)) == (pair.only_baseline, pair.only_variant)
    assert p.startswith("McNemar's exact p ")
    for name in ("000001", "010001"):
        (one / name / "config.gin").write_text("experiment.dataset = 'data/set0'\n")
    done = CliRunner().invoke(main.app, ["diff", str(one / "000001"), str(one / "010001")])
    assert done.exit_code == 0 and "McNemar" in done.output


def test_equal_models_have_p_one_and_the_reason(tmp_path):
    folder = make_study(tmp_path / "s", {"CoOp": (0, 0), "A": (0, 0)}, datasets=1, seeds=1, noise=0)
    with_images(folder)
    found = read_correct_images(folder / "000001").values()
    write_correct_images(folder / "010001", [replace(f) for f in found])
    pairs = view_of(folder).pairs
    assert [(p.p, p.holm_p, p.reason) for p in pairs] == [
        (1.0, 1.0, "both are correct on the same images")
    ] * 2

"""Published figures: as printed, checked, flagged, filtered, and never more than context."""

import csv
import json
import random
import re
import shutil
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

import main as command_line
from analysis.read.csv_file import load_csv
from analysis.read.published import (
    AVERAGE,
    BUDGETS,
    DATASETS,
    METRICS,
    REGIMES,
    TABLES,
    TABLES_DIR,
    known_dataset,
    load_published,
    select,
)
from analysis.read.results import Setting
from analysis.report import build_report
from analysis.sections.analysis import Options
from analysis.sections.published import (
    CONTEXT_NOTE,
    footnotes,
    published_context,
    published_tables,
)
from tests.helpers.report_pages import read_page

ROWS = load_published()
BASE_TO_NEW = TABLES["base_to_new"].file
CROSS = TABLES["cross_dataset"].file


def one(rows, **wanted):
    (row,) = [r for r in rows if all(getattr(r, key) == value for key, value in wanted.items())]
    return row


@pytest.fixture
def tables(tmp_path):
    """A copy of the tables, and a function that edits one of them."""
    folder = tmp_path / "tables"
    shutil.copytree(TABLES_DIR, folder)

    def edit(name, old, new):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        return folder

    return edit


def write_base_to_new(folder, figures):
    """A table of one method with these (dataset, base, new, hm)."""
    shutil.copytree(TABLES_DIR, folder, dirs_exist_ok=True)
    lines = [f"Some,{d},{b},{n},{h},paper: some" for d, b, n, h in figures]
    (folder / BASE_TO_NEW).write_text("\n".join(["method,dataset,base,new,hm,source", *lines]))
    return [r for r in load_published(folder) if r.table == "base_to_new"]


def test_every_printed_figure_is_there_as_it_was_printed():
    expected = []
    for table in TABLES.values():
        with (TABLES_DIR / table.file).open(newline="") as file:
            lines = list(csv.DictReader(file))
        expected += [[Decimal(x[m]) if m in x else None for m in METRICS] for x in lines]
    found = [
        [None if v is None else Decimal(repr(v)) * 100 for v in map(r.to_dict().get, METRICS)]
        for r in ROWS
    ]
    assert len(ROWS) > 400 and found == expected


def test_some_figures_by_hand():
    coop = one(ROWS, table="base_to_new", method="CoOp", dataset="average", origin="paper")
    assert (coop.base, coop.new, coop.hm) == (0.8269, 0.6322, 0.7166) and coop.accuracy is None
    assert (coop.regime, coop.shots, coop.backbone) == ("inductive", 16, "ViT-B/16")
    assert coop.budget.startswith("200 epochs") and "vit_b16_ctxv1" in coop.known_from
    depts = select(ROWS, dataset="average", method="CoOp", protocol="base_to_new", metric="hm")
    assert [r.hm for r in depts][:4] == [0.7166, 0.7460, 0.7518, 0.7484]
    assert depts[2].origin == "rerun" and depts[2].budget == "10 epochs, batch 4, lr 0.0035"
    kd = one(ROWS, table="base_to_new", method="PromptKD", dataset="dtd", origin="paper")
    assert (
        kd.regime == "transductive" and kd.shots is None and (kd.base, kd.new) == (0.8584, 0.7137)
    )
    limited = one(ROWS, method="TextRefiner (PromptKD, limited samples)")
    assert limited.regime == "limited" and limited.shots == 16 and limited.origin == "list"
    source = one(ROWS, table="cross_dataset", method="CoOp", dataset="imagenet", origin="paper")
    assert source.accuracy == 0.7151
    assert {r.shots for r in ROWS if r.table == "few_shot"} == {4, 8, 16}


def test_every_row_says_under_which_conditions():
    for row in ROWS:
        assert row.regime in REGIMES and row.backbone.startswith("ViT-") and row.budget, row
        assert row.origin in {"paper", "secondary", "rerun", "list", "notes"}, row.source
        assert row.dataset in (*DATASETS, AVERAGE) and row.protocol in TABLES
    assert {r.regime for r in ROWS if r.method == "PromptKD"} == {"transductive"}


def test_what_the_sources_print_inconsistently_is_flagged_and_nothing_else():
    flagged = {(r.table, r.method, r.dataset, r.origin, r.shots): r.flags for r in ROWS if r.flags}
    assert set(flagged) == {
        ("base_to_new", "PromptKD", "stanford_cars", "paper", None),
        ("base_to_new", "PromptKD", "ucf101", "paper", None),
        ("base_to_new", "MaPLe", "fgvc_aircraft", "rerun", 16),
        ("base_to_new", "CoOp", "average", "rerun", 16),
        ("base_to_new", "CoCoOp", "average", "rerun", 16),
        ("few_shot", "CoOp", "average", "rerun", 4),
        ("few_shot", "CoOp", "average", "rerun", 8),
    }
    kd = flagged["base_to_new", "PromptKD", "ucf101", "paper", None]
    assert kd == ("hm 86.10 is printed, but the harmonic mean of 89.71 and 82.27 is 85.83",)
    coop = flagged["base_to_new", "CoOp", "average", "rerun", 16]
    assert coop == (
        "base 81.50 is printed, but the mean of the 11 rows is 81.59",
        "new 69.77 is printed, but the mean of the 11 rows is 69.99",
    )


@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize("of_means", [True, False])
def test_rounding_alone_is_never_flagged(tmp_path, digits, of_means):
    """Figures made from exact ones and then printed; the average under either convention."""
    rng = random.Random(digits)
    for trial in range(20):
        exact = [(rng.uniform(5, 100), rng.uniform(5, 100)) for _ in range(11)]
        hms = [2 * b * n / (b + n) for b, n in exact]
        base, new = (sum(pair[i] for pair in exact) / 11 for i in range(2))
        average = 2 * base * new / (base + new) if of_means else sum(hms) / 11
        figures = [
            (d, *(f"{v:.{digits}f}" for v in (b, n, h)))
            for d, (b, n), h in zip(list(DATASETS)[:11], exact, hms, strict=True)
        ]
        figures.append(("Average", *(f"{v:.{digits}f}" for v in (base, new, average))))
        rows = write_base_to_new(tmp_path / str(trial), figures)
        assert len(rows) == 12 and not any(r.flags for r in rows)


def test_what_rounding_cannot_explain_is_flagged(tmp_path):
    rows = [(d, "80.00", "60.00", "68.57") for d in list(DATASETS)[:11]]
    good = [*rows, ("Average", "80.00", "60.00", "68.57")]
    assert not any(r.flags for r in write_base_to_new(tmp_path / "good", good))
    for column, printed, word in ((1, "80.04", "base"), (2, "59.98", "new"), (3, "68.60", "hm")):
        for index in (0, 11):
            bad = [list(row) for row in good]
            bad[index][column] = printed
            made = write_base_to_new(tmp_path / f"{column}{index}", bad)
            texts = " ".join(made[index].flags)
            assert printed in texts and (index == 0 or f"{word} {printed} is printed" in texts)
            assert getattr(made[index], word) == float(Decimal(printed) / 100)
    part = [("dtd", "80.00", "60.00", "68.57"), ("Average", "70.00", "60.00", "64.62")]
    assert not any(r.flags for r in write_base_to_new(tmp_path / "part", part))


def test_an_average_of_accuracies_is_over_the_targets_alone(tables):
    folder = tables(CROSS, "CoOp,Average,63.88", "CoOp,Average,63.90")
    row = one(load_published(folder), table="cross_dataset", accuracy=0.639)
    assert row.flags == ("accuracy 63.90 is printed, but the mean of the 10 rows is 63.88",)


BROKEN = [
    (BASE_TO_NEW, "dataset,base,new", "dataset,basis,new", "needs a column 'base', has method"),
    (CROSS, "accuracy,setting,", "accuracy,", "needs a column 'setting'"),
    (
        BASE_TO_NEW,
        "98.00,89.81",
        "98.o0,89.81",
        "line 16 (CoOp, Caltech101): base must be a number",
    ),
    (BASE_TO_NEW, "98.00,89.81", "980.0,89.81", "from 0 to 100, got '980.0'"),
    (BASE_TO_NEW, "98.00,89.81", "nan,89.81", "base must be a number from 0 to 100, got 'nan'"),
    (BASE_TO_NEW, "98.00,89.81", ",89.81", "base must be a number from 0 to 100, got ''"),
    (BASE_TO_NEW, "98.00,89.81,", "", "line 16: a row has 6 columns"),
    (BASE_TO_NEW, "98.00,89.81", "98.00,1,89.81", "line 16: a row has 6 columns"),
    (
        BASE_TO_NEW,
        "CoOp,Caltech101",
        "CoOp,ImageNet",
        "every row must be unique, but line 15 is the same",
    ),
    (BASE_TO_NEW, "CoOp,Caltech101", "CoOp,Caltch101", "did you mean 'Caltech101'?"),
    (BASE_TO_NEW, "CoOp,Caltech101", ",Caltech101", "line 16 (, Caltech101): method must not be"),
    (CROSS, "inductive", "inductiv", "unknown regime 'inductiv'; did you mean 'inductive'?"),
    (TABLES["few_shot"].file, "CoOp,4", "CoOp,four", "shots must be a whole number, got 'four'"),
    (
        TABLES["few_shot"].file,
        "CoOp,8",
        "CoOp,4",
        "every row must be unique, but line 2 is the same",
    ),
    (BUDGETS, "backbone,shots", "spine,shots", "needs a column 'backbone'"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), BROKEN, ids=[m for *_, m in BROKEN])
def test_a_broken_table_is_one_line_that_names_the_row(tables, name, old, new, message):
    with pytest.raises(ValueError) as caught:
        load_published(tables(name, old, new))
    text = str(caught.value)
    assert message in text and name in text and "\n" not in text


def test_missing_and_empty_files_are_said(tables):
    folder = tables(BUDGETS, "", "")
    (folder / CROSS).write_text("method,dataset,accuracy,setting,source\n")
    with pytest.raises(ValueError, match="at least one row below its header"):
        load_published(folder)
    (folder / CROSS).unlink()
    with pytest.raises(ValueError, match="not a readable CSV file"):
        load_published(folder)


def test_a_row_without_a_budget_line_says_so(tables):
    folder = tables(BASE_TO_NEW, "CLIP (zero-shot),", "Newest,")
    (folder / BUDGETS).write_text((folder / BUDGETS).read_text().splitlines()[0] + "\n,No,,,,,,\n")
    row = load_published(folder)[0]
    assert row.method == "Newest" and row.shots is None
    assert row.backbone == row.regime == row.budget == "not stated"


def test_tables_are_shipped():
    root = Path(command_line.__file__).parent
    packaged = (root / "setup.py").read_text()
    globs = re.findall(r'"(read/published_tables/[^"]+)"', packaged)
    shipped = {path for g in globs for path in (root / "analysis").glob(g)}
    assert set(TABLES_DIR.iterdir()) <= shipped
    assert {p.name for p in TABLES_DIR.iterdir()} == {*(t.file for t in TABLES.values()), BUDGETS}


def test_names_of_data_sets():
    for name in ("oxford_flowers", "Flowers102", "OxfordFlowers", "flowers-102", "FLOWERS102"):
        assert known_dataset(name) == "oxford_flowers"
    assert known_dataset("ImageNet-A") == known_dataset("imagenet_a") == "imagenet_a"
    assert known_dataset("mosaic") == known_dataset("") == known_dataset("textures") == ""


def test_filters():
    assert select(ROWS) == ROWS
    pets = select(ROWS, dataset="OxfordPets", metric="hm")
    assert len(pets) > 10 and {(r.dataset, r.table) for r in pets} == {
        ("oxford_pets", "base_to_new")
    }
    assert {r.table for r in select(ROWS, protocol="few_shot")} == {"few_shot"}
    assert {r.table for r in select(ROWS, protocol="base-to-new")} == {"base_to_new", "few_shot"}
    assert {r.method for r in select(ROWS, method="promptkd")} == {"PromptKD"}
    assert {r.method for r in select(ROWS, method="textrefiner")} == {
        "TextRefiner (CoOp)",
        "TextRefiner (PromptKD, limited samples)",
    }
    refusals = {
        "dataset 'eurosatt'; did you mean 'eurosat'": {"dataset": "eurosatt"},
        "metric 'hmm'; did you mean 'hm'": {"metric": "hmm"},
        "protocol 'cross_datasets'; did you mean 'cross_dataset'": {"protocol": "cross_datasets"},
        "method 'MaPel'; did you mean 'MaPLe'": {"method": "MaPel"},
        "no published result has dataset 'imagenet_a', metric 'hm'; leave one out": {
            "dataset": "imagenet_a",
            "metric": "hm",
        },
    }
    for message, filters in refusals.items():
        with pytest.raises(ValueError, match=message):
            select(ROWS, **filters)


def test_tables_are_in_percent_and_flag_what_is_off():
    rows = select(ROWS, dataset="ucf101", method="PromptKD")
    base_to_new, cross = published_tables(rows)
    titles = [[column.title for column in found.columns] for found in (base_to_new, cross)]
    assert titles[0][1:7] == ["dataset", "source", "backbone", "shots", "regime", "budget"]
    assert base_to_new.texts()[0][-4:] == ("89.71", "82.27", "86.10", "!")
    assert base_to_new.texts()[0][2] == "paper: ATPrompt [1]" and base_to_new.texts()[1][-1] == ""
    assert titles[1][-2:] == ["accuracy", ""] and cross.texts()[0][4] == "-"
    notes = footnotes(rows)
    assert notes[0].startswith("! PromptKD, ucf101, paper: hm 86.10 is printed")
    assert notes[1].startswith("[1] paper: ATPrompt (ICCV25) Table 1 = ")
    assert notes[-1] == CONTEXT_NOTE
    fitting = select(ROWS, dataset="average", metric="hm", protocol="few_shot")
    (only,) = published_tables(fitting, metric="hm")
    titles = [column.title for column in only.columns]
    assert titles[-2:] == ["HM", ""] and "dataset" not in titles


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", "published", *words])
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_command(call):
    code, out, err = call("--dataset", "dtd", "--metric", "hm", "--method", "coop")
    assert code == 0 and err == "" and "54.24" in out and "61.11" in out
    assert "200 epochs" in out and "inductive" in out and "never the baseline" in out
    assert "41.18" not in out
    code, out, _ = call("--protocol", "domain_generalization", "--json")
    found = json.loads(out)
    assert code == 0 and all(row["dataset"] == "average" for row in found)
    clip = next(row for row in found if row["method"] == "CLIP (zero-shot)")
    assert clip["accuracy"] == 0.5718 and clip["hm"] is None and clip["shots"] == 0
    assert clip["source"].startswith("paper: PromptKD supp. Table 9") and clip["origin"] == "paper"
    code, out, _ = call("--dataset", "all", "--json")
    assert len(json.loads(out)) == len(ROWS)
    code, out, err = call("--dataset", "catltech101")
    assert code == 2 and out == "" and "did you mean 'caltech101'?" in err


def study(tmp_path, *, variants=("CoOp", "Mine"), datasets=("oxford_pets", "dtd"), extra=""):
    """A CSV of two seeds a cell; ``extra`` is one "column=value" for all rows."""
    column, _, value = extra.partition("=")
    head = ",".join(["variant,dataset,seed,base,new", *([column] if extra else [])])
    rows = [
        ",".join([v, d, str(s), f"{70 + i + s}", f"{60 + 2 * i - s}", *([value] if extra else [])])
        for i, v in enumerate(variants)
        for d in datasets
        for s in (1, 2)
    ]
    path = tmp_path / "results.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_context_has_the_study_s_data_sets_and_namesakes_first(tmp_path):
    names = ("CoOp", "ZeroShot", "CoOp+TextRefiner", "TextRefiner on CoOp", "minus cache")
    datasets = ("folder/OxfordPets", "own", "dtd")
    found = published_context(load_csv(study(tmp_path, variants=names, datasets=datasets)))
    assert found.datasets == ("folder/OxfordPets", "dtd") and found.metrics == ("base", "new", "hm")
    here = {line.row.method: line.here for line in found.lines if line.here}
    assert here == {
        "CLIP (zero-shot)": ("ZeroShot",),
        "CoOp": ("CoOp",),
        "TextRefiner (CoOp)": ("CoOp+TextRefiner", "TextRefiner on CoOp"),
    }
    assert [bool(line.here) for line in found.lines] == sorted(
        (bool(line.here) for line in found.lines), reverse=True
    )
    refiner = next(line for line in found.lines if line.row.method == "TextRefiner (CoOp)")
    assert refiner.figures["dtd", "hm"] == 0.6560
    assert refiner.figures["folder/OxfordPets", "hm"] is None
    assert {line.row.table for line in found.lines} == {"base_to_new"}


def test_context_is_silent_where_two_folders_have_the_name_of_one_published_set(tmp_path):
    two = study(tmp_path, datasets=("folder/v1/dtd", "folder/v2/dtd", "oxford_pets"))
    assert published_context(load_csv(two)).datasets == ("oxford_pets",)
    beside = study(tmp_path, datasets=("folder/v1/dtd", "dtd"))
    assert published_context(load_csv(beside)).datasets == ("dtd",)


def test_context_names_a_base_method_in_the_factors_and_another_regime(tmp_path):
    results = load_csv(study(tmp_path, variants=("TextRefiner", "PromptKD")))
    results = replace(
        results,
        factors={"TextRefiner": {"experiment.method": "@CoOp"}},
        settings={
            "TextRefiner": Setting(protocol="base-to-new", regime="inductive"),
            "PromptKD": Setting(protocol="base-to-new", regime="limited"),
        },
    )
    here = {line.row.method: line.here for line in published_context(results).lines if line.here}
    assert here == {"TextRefiner (CoOp)": ("TextRefiner",), "PromptKD": ("PromptKD (limited)",)}


def test_context_needs_the_same_protocol_and_published_data_sets(tmp_path):
    mosaic = ("mosaic/vehicles", "mosaic/textures")
    assert published_context(load_csv(study(tmp_path, datasets=mosaic))) is None
    other = study(tmp_path, extra="protocol=all_classes")
    assert published_context(load_csv(other)) is None
    cross = tmp_path / "cross.csv"
    cross.write_text("variant,dataset,seed,accuracy\nCoOp,imagenet to dtd,1,44\nMine,dtd,1,45\n")
    assert published_context(load_csv(cross)) is None
    cross.write_text(
        "variant,dataset,seed,accuracy,protocol\n"
        "CoOp,imagenet to dtd,1,44,cross_dataset\nMine,imagenet to dtd,1,45,cross_dataset\n"
    )
    found = published_context(load_csv(cross))
    assert {line.row.table for line in found.lines} == {"cross_dataset"}
    assert found.lines[0].figures == {("imagenet to dtd", "accuracy"): 0.4192}


def test_report_shows_them_as_context_and_uses_them_nowhere(tmp_path):
    options = Options(reps=100)
    report = build_report(study(tmp_path), out=tmp_path / "report", options=options, figures=False)
    page = report.page.read_text()
    box = read_page(report.page).by_id("published")
    assert "54.24" in box.text() and "41.18" in box.text()
    for text in ("ATPrompt (ICCV25) Table 1", "transductive", "200 epochs", "here: CoOp"):
        assert text in page
    assert "never the baseline of a comparison" in page
    folded = [box, *box.all("details")]
    assert all(e.tag == "details" and "open" not in e.attributes for e in folded)
    for name in ("report.json", "report.md", "results.csv", "comparisons.csv", "scores.csv"):
        assert "ATPrompt" not in (tmp_path / "report" / name).read_text()
    plain = study(tmp_path, datasets=("first", "second"))
    plain_report = build_report(plain, out=tmp_path / "plain", options=options, figures=False)
    page = plain_report.page.read_text()
    assert 'id="published"' not in page and "#published" not in page
    renamed = (tmp_path / "plain" / "comparisons.csv").read_text()
    for dataset, name in (("oxford_pets", "first"), ("dtd", "second")):
        renamed = re.sub(rf"\b{name}\b", dataset, renamed)
    assert renamed == (tmp_path / "report" / "comparisons.csv").read_text()

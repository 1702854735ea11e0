"""Encodings, delimiters, quotes, line breaks and the ways in which people write a number."""

import numpy as np
import pytest

from analysis.read.csv_cells import number_of, whole_number
from analysis.read.csv_file import load_csv
from analysis.read.csv_text import read_table
from tests.helpers.score_tables import DATASETS, HEADER, SEEDS, VARIANTS, score, text

EXPECTED = {v: [[score(v, d, s) / 100 for s in SEEDS] for d in DATASETS] for v in VARIANTS}


def load(tmp_path, content, **how):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_csv(path, **how)


def comma(value):
    return f"{value:.2f}".replace(".", ",")


SAME = {
    "plain": text(),
    "byte order mark": "\ufeff" + text(),
    "UTF-16": text().replace(",", "\t").encode("utf-16"),
    "Windows line ends": text().replace("\n", "\r\n"),
    "old line ends": text().replace("\n", "\r"),
    "no line end at the end": text().rstrip(),
    "blank lines": text().replace("\n", "\n\n"),
    "semicolons": text(HEADER.replace(",", ";"), between=";"),
    "tabs": text(HEADER.replace(",", "\t"), between="\t"),
    "bars": text(HEADER.replace(",", "|"), between="|"),
    "declared delimiter": "sep=;\n" + text(HEADER.replace(",", ";"), between=";"),
    "semicolons and decimal commas": text(HEADER.replace(",", ";"), between=";", number=comma),
    "quoted decimal commas": text(number=lambda value: f'"{comma(value)}"'),
    "percent signs": text(number="{:.2f}%".format),
    "percent signs apart": text(number="{:.2f} %".format),
    "percent in the header": text(HEADER + " (%)"),
    "an arrow in the header": text(HEADER + " ↑"),
    "quoted names": text().replace("X,", '"X",').replace("d0", '"d0"'),
    "white space": text().replace("X,", "  X , ").replace("d0", "d0\t"),
    "a comment above": "# of last week\n" + text(),
    "a header marked as a comment": "# " + text(),
    "trailing commas": text().replace("\n", ",\n").replace("acc,", "acc", 1),
    "trailing commas in the header too": text().replace("\n", ",,\n"),
    "the header twice": text() + HEADER + "\n",
    "seeds with zeros": text(seed="{:02d}".format),
    "seeds as floats": text(seed="{:.1f}".format),
    "seeds with a sign": text(seed="{:+d}".format),
    "seeds with a word": text(seed="seed {}".format),
    "fractions": text(number=lambda value: f"{value / 100:.4f}"),
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_one_table_in_many_spellings(tmp_path, content):
    results = load(tmp_path, content)
    assert (results.variants, results.datasets) == (VARIANTS, DATASETS)
    assert results.metrics == ("acc",) and results.planned_seeds == SEEDS
    for variant in VARIANTS:
        np.testing.assert_allclose(results.scores(variant, "acc"), EXPECTED[variant], atol=1e-12)
    assert not results.problems


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text().replace("X", "Xé").encode("latin-1"), "line 2: not UTF-8 text; save the table as"),
        (b"PK\x03\x04 and so on", "it is an Excel workbook"),
        (b"PAR1 and so on", "it is a Parquet file"),
        (b"\x1f\x8b and so on", "it is compressed"),
        (b"a,b\x00\n1,2\n", "binary data"),
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (text().replace("d0,1", 'd0,"1'), "check its quotes"),
        (text(number=comma), "line 2: 5 fields, but the header has 4; a decimal comma needs quo"),
        (
            text("variant,dataset,acc"),
            "line 2: 4 fields, but the header has 3; remove what is too much, or name every column",
        ),
        (text() + "X,d3,1\n", "line 14: 3 fields, but the header has 4; keep the delimiters"),
        (text(HEADER + ", acc", more=lambda v, d, s: ["1"]), "these repeat: acc"),
        (text(HEADER + ",Acc", more=lambda v, d, s: ["1"]), "these repeat: Acc, acc"),
        (text().replace(",", " "), "separate the columns by commas, semicolons or tabs"),
        (text(number="{:.1f} ± 0.3".format), "a mean with its spread; give every run its own row"),
        (text(number="{:.1f} (0.3)".format), "a mean with its spread"),
        (text(number=lambda value: "7_0"), "line 2: acc must be a number, got '7_0'"),
        (text(number=lambda value: "٧٠"), "acc must be a number"),
        (text(seed="1e{}".format), "line 2: seed must be a whole number or blank, got '1e1'"),
        (text(seed='"{},000"'.format), "seed must be a whole number or blank, got '1,000'"),
        (text(seed=lambda s: str(2**64 - 1 + s)), "line 2: seed must be at most 2\\^64 - 1"),
        (text(seed=lambda s: str([-1, 2**63][s - 1])), "seeds below 0 and seeds from 2\\^63 on"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_name_with_a_line_break_is_on_one_line_and_lines_are_counted(tmp_path):
    content = text().replace("Y,", '"Y\n(ours)",')
    results = load(tmp_path, content)
    assert results.variants == ("X", "Y (ours)")
    with pytest.raises(ValueError, match="line 14: acc must be a number"):
        load(tmp_path, content.replace("72.70", "x"))


@pytest.mark.parametrize("written", ["d\u20280", "d \t 0", "\u200bd 0", "d\xa00"])
def test_a_name_is_the_same_whatever_its_white_space(tmp_path, written):
    results = load(tmp_path, text().replace("Y,d0", f'Y,"{written}"').replace("X,d0", "X,d 0"))
    assert results.datasets == ("d 0", "d1", "d2")


def test_a_name_is_the_same_in_either_unicode_form(tmp_path):
    results = load(tmp_path, text().replace("X,d0", "X,é").replace("Y,d0", "Y,e\u0301"))
    assert results.datasets == ("é", "d1", "d2") and not results.problems


@pytest.mark.parametrize("blank", ["", "NA", "n/a", "-", "--", "nan", "NaN", "None", "null", "—"])
def test_a_blank_cell_has_many_spellings(tmp_path, blank):
    content = text(number=lambda v: blank if v == score("Y", "d1", 2) else f"{v}")
    results = load(tmp_path, content)
    assert [str(p) for p in results.problems] == ["missing: Y on d1, seed 2: blank acc"]
    assert len(results.frame) == 11


def test_seeds_of_twenty_digits_are_read_exactly(tmp_path):
    results = load(tmp_path, text(seed=lambda s: str(2**64 - s)))
    assert results.planned_seeds == (2**64 - 2, 2**64 - 1)
    assert results.frame["seed"].tolist()[:2] == [2**64 - 1, 2**64 - 2]
    assert np.isfinite(results.scores("X", "acc")).all()


@pytest.mark.parametrize("again", ["1", "1.0", "01", "+1", " 1", "1.", "seed1"])
def test_a_run_that_stands_twice_is_found_whichever_way_its_seed_is_written(tmp_path, again):
    message = "line 14: one row per variant, dataset, seed, but Y, d0, 1 appeared before, in line 8"
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text() + f"Y,d0,{again},41.8\n")


def test_what_tells_doubled_runs_apart_is_named(tmp_path):
    once = text(HEADER + ",split", more=lambda v, d, s: ["test"])
    twice = once + "\n".join(line.replace("test", "val") for line in once.splitlines()[1:])
    with pytest.raises(ValueError, match=r"in line 2 \(they differ in split\)"):
        load(tmp_path, twice)


def test_numbers_of_a_cell():
    assert [number_of(t) for t in ("7", "+7.", ".5", "7e1", "7,5", "7.5 %")] == [
        7, 7, 0.5, 70, 7.5, 7.5,
    ]  # fmt: skip
    assert all(number_of(t) is None for t in ("", "1,234.5", "0x1", "inf", "nan", "1 2", "%"))
    assert [whole_number(t) for t in ("-0", "007", str(2**70))] == [0, 7, 2**70]
    assert all(whole_number(t) is None for t in ("1.5", "1,000", "x1", "", "1e3"))


def test_rows_keep_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('# note\na,b\n\n"1\n2",3\n4,5\n')
    table = read_table(path)
    assert table.lines == (4, 6) and table.rows == (("1 2", "3"), ("4", "5"))

"""Several sources in one report: names, datasets, metrics and seeds are matched, and said so."""

import json

import numpy as np
import pytest

from analysis.read.load import load_sources, study_of
from analysis.read.reading import Reading
from analysis.report import build_report
from analysis.sections.analysis import Options
from tests.helpers.score_tables import text
from tests.helpers.study_folders import edit_record, make_study

HEADER = "method,dataset,seed,base,new\n"


def theirs(names=("CoOp", "Theirs"), datasets=2, prefix="data/set"):
    rows = [
        f"{name},{prefix}{d},{seed},{70 + d + seed / 10 + i:.2f},{60 + d * d + seed / 10 + i:.2f}\n"
        for i, name in enumerate(names)
        for d in range(datasets)
        for seed in (1, 2)
    ]
    return HEADER + "".join(rows)


@pytest.fixture
def study(tmp_path):
    effects = {"CoOp": (0, 0), "Full": (9, 9)}
    return make_study(tmp_path / "mine", effects, datasets=2, seeds=2, references=("Full",))


def write(tmp_path, content, name="other.csv"):
    (tmp_path / name).write_text(content)
    return tmp_path / name


def load(*paths, **how):
    return load_sources(paths, how.pop("reading", Reading()), **how)


def test_variants_get_the_name_of_their_source_where_it_is_given_or_needed(study, tmp_path):
    other = write(tmp_path, theirs())
    found = load(study, other, names=["theirs"])
    assert found.variants == ("CoOp", "Full", "theirs/CoOp", "theirs/Theirs")
    assert load(study, other).variants[2:] == ("other/CoOp", "other/Theirs")
    distinct = write(tmp_path, theirs(("A", "B")), "distinct.csv")
    assert load(study, distinct).variants[2:] == ("A", "B")
    assert (found.baseline, found.references) == ("CoOp", ("Full",))
    assert load(other, study, names=["theirs"]).variants == found.variants


def test_the_study_is_what_it_is_alone(study, tmp_path):
    alone, found = load(study), load(study, write(tmp_path, theirs()))
    assert found.datasets == alone.datasets and found.metrics == alone.metrics
    for metric in alone.metrics:
        both = found.scores("Full", metric)
        np.testing.assert_array_equal(both[:, :2], alone.scores("Full", metric))
        assert np.isnan(both[:, 2:]).all()
    assert found.planned("Full") == 2 and found.planned("other/CoOp") == 2


def test_seeds_of_two_sources_are_not_paired_unless_a_person_or_the_data_say_so(study, tmp_path):
    other = write(tmp_path, theirs())
    found = load(study, other)
    assert found.planned_seeds == (1, 2, 101, 102)
    note = next(n for n in found.notes if "not paired" in n)
    assert "its seed 1 is shown as 101" in note and "--paired" in note
    assert [o.paired for o in found.origins] == [True, False]
    paired = load(study, other, paired=True)
    assert paired.planned_seeds == (1, 2) and [o.paired for o in paired.origins] == [True, True]
    rows = text("variant,dataset,seed,acc,data", more=lambda v, d, s: [f"{d}-{s}"])
    one, two = write(tmp_path, rows, "one.csv"), write(tmp_path, rows, "two.csv")
    assert load(one, two).planned_seeds == (1, 2)
    write(tmp_path, rows.replace("d0-1", "else"), "two.csv")
    assert load(one, two).planned_seeds == (1, 2, 101, 102)


def test_large_seeds_stay_apart(tmp_path):
    rows = text(seed=lambda s: str(2**64 - s))
    one, two = write(tmp_path, rows, "one.csv"), write(tmp_path, rows, "two.csv")
    assert load(one, two).planned_seeds == (1, 2, 2**64 - 2, 2**64 - 1)


def test_datasets_and_metrics_are_matched_by_name(study, tmp_path):
    content = theirs(datasets=3, prefix="Data/Set").replace("Data/Set0", "DATA/SET0")
    found = load(study, write(tmp_path, content.replace("base,new", "Base,f1")))
    assert found.metrics == ("base",) and found.datasets == ("data/set0", "data/set1")
    said = " ".join(found.notes)
    assert "'DATA/SET0' is taken to be 'data/set0'" in said
    assert "lacks are left out: Data/Set2" in said
    assert "metrics that not all sources have are left out: new, hm, f1" in said
    assert np.isfinite(found.scores("other/CoOp", "base")[:, 2:]).all()


def test_folders_are_the_same_only_where_their_paths_are(tmp_path):
    first = make_study(tmp_path / "demo", {"CoOp": (0, 0)}, datasets=1, prefix="folder/v1/")
    content = theirs(datasets=1, prefix="folder/v1/set")
    assert load(first, write(tmp_path, content)).datasets == ("folder/v1/set0",)
    for other in (content.replace("set0", "SET0"), content.replace("v1/set0", "v1/set-0")):
        with pytest.raises(ValueError, match="shares no dataset with the first source"):
            load(first, write(tmp_path, other))


def state(folder, prints, prefix="folder/"):
    """A study on a dataset for each fingerprint."""
    effects = {"CoOp": (0, 0), "Full": (9, 9)}
    made = make_study(folder, effects, datasets=len(prints), seeds=2, prefix=prefix)
    for file in made.glob("*/record.json"):

        def edit(raw):
            raw["fingerprints"] = {"dataset": prints[int(raw["dataset"][-1])]}

        edit_record(file, edit)
    return made


def test_a_dataset_of_other_images_is_set_aside_and_named(tmp_path):
    first = state(tmp_path / "a", ["f0", "f1"])
    second = state(tmp_path / "b", ["g0", "f1"])
    for paired in (False, True):
        found = load(first, second, names=["two"], paired=paired)
        assert np.isnan(found.scores("two/Full", "base")[0]).all()
        assert np.isfinite(found.scores("two/Full", "base")[1]).any()
        told = "set aside, 'folder/set0' has other images or another split: fingerprint g0, not f0"
        assert any(told in note for note in found.notes)
    build_report(found, out=tmp_path / "o", options=Options(reps=200), figures=False)
    assert told.partition("' ")[2] in (tmp_path / "o/index.html").read_text()
    with pytest.raises(ValueError, match="no dataset has the same images as in the first source"):
        load(first, state(tmp_path / "c", ["g0", "g1"]), paired=True)
    blank = state(tmp_path / "d", ["", ""])
    assert len(load(first, blank).datasets) == 2  # an older source states nothing: not checked


def test_splits_of_every_seed_are_compared_where_both_have_the_seed(tmp_path):
    def rows(name, word):
        more = text("variant,dataset,seed,acc,data", more=lambda v, d, s: [f"{word}-{d}-{s}"])
        return write(tmp_path, more, f"{name}.csv")

    with pytest.raises(ValueError, match="no dataset has the same images"):
        load(rows("a", "x"), rows("b", "y"))
    later = write(tmp_path, rows("c", "y").read_text().replace(",1,", ",8,").replace(",2,", ",9,"))
    assert load(rows("a", "x"), later).planned_seeds[:2] == (1, 2)


def test_a_dataset_is_known_by_its_fingerprint_under_another_name(tmp_path):
    first = state(tmp_path / "a", ["f0", "f1"])
    second = state(tmp_path / "b", ["f0", "f1"], prefix="folder//disk/")
    found = load(first, second, names=["two"])
    assert found.datasets == ("folder/set0", "folder/set1")
    assert any("'folder//disk/set1' is taken to be 'folder/set1'" in n for n in found.notes)
    assert [o.paired for o in found.origins] == [True, True]
    twice = state(tmp_path / "c", ["f0", "f0"], prefix="folder//disk/")
    with pytest.raises(ValueError, match="shares no dataset"):
        load(first, twice)


@pytest.mark.parametrize(
    ("content", "how", "message"),
    [
        (theirs(prefix="x"), {}, "shares no dataset with the first source, which has data/set0"),
        (theirs().replace("base,new", "f1,auc"), {}, "shares no metric with the first source"),
        (theirs(), {"names": ["a", "b"]}, "--as names every source but the first, 1 here"),
        (theirs(), {"names": [" "]}, "--as names every source but the first"),
        (theirs(), {"names": ["mine"]}, "two sources are called 'mine'"),
        (theirs(), {"reading": Reading(lower=["f9"])}, "must name a metric, got 'f9'; known: base"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(study, tmp_path, content, how, message):
    first = study.rename(tmp_path / "mine") if study.name != "mine" else study
    manifest = json.loads((first / "study.json").read_text()) | {"study": "mine"}
    (first / "study.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message) as caught:
        load(first, write(tmp_path, content), **how)
    assert "\n" not in str(caught.value)


def test_directions_must_agree_and_an_option_may_be_for_one_source(tmp_path):
    up = write(
        tmp_path, text("variant,dataset,seed,acc,higher:err", more=lambda *k: ["5"]), "u.csv"
    )
    down = write(tmp_path, text("variant,dataset,seed,lower:err"), "d.csv")
    with pytest.raises(ValueError, match="lower is better for err in one source and higher in an"):
        load(up, down)
    plain = write(tmp_path, text(), "p.csv")
    errors = write(tmp_path, text("variant,dataset,seed,acc,err", more=lambda *k: ["5"]), "e.csv")
    found = load(plain, errors, reading=Reading(lower=["err"]))
    assert found.metrics == ("acc",) and not found.lower_is_better


def test_every_file_has_a_scale_of_its_own(tmp_path):
    percent = write(tmp_path, text(), "one.csv")
    fraction = write(tmp_path, text(number=lambda value: f"{value / 100:.4f}"), "two.csv")
    found = load(percent, fraction, paired=True)
    np.testing.assert_allclose(found.scores("X", "acc"), found.scores("two/X", "acc"))


def test_the_report_says_who_is_from_where_and_pairs_nobody(study, tmp_path):
    other = write(tmp_path, theirs())
    paths = (study, other)
    found = load_sources(paths, Reading(), names=["theirs"])
    made = build_report(
        found, out=tmp_path / "o", options=Options(reps=200), figures=False, folder=study_of(paths)
    )
    block = made.section("comparisons").tables[0]
    rows = dict(zip([r[1] for r in block.rows], block.texts(), strict=True))
    assert any("no pairs" in cell for cell in rows["theirs/CoOp"])
    assert not any("no pairs" in cell for cell in rows["Full"])
    page = (tmp_path / "o" / "index.html").read_text()
    assert "from theirs" in page and str(other) in page
    runs = made.section("runs").tables[0].texts()
    assert len(runs) == 16 and sum("from theirs" in " ".join(row) for row in runs) == 8


def test_a_paired_source_is_compared(study, tmp_path):
    found = load(study, write(tmp_path, theirs()), paired=True)
    made = build_report(found, out=tmp_path / "o", options=Options(reps=200), figures=False)
    rows = {row[1]: row for row in made.section("comparisons").tables[0].texts()}
    assert "not compared" not in rows["other/Theirs"]


def test_three_sources(tmp_path):
    paths = [write(tmp_path, text(), f"{name}.csv") for name in "abc"]
    found = load(*paths, names=["second"])
    assert found.variants == ("X", "Y", "second/X", "second/Y", "c/X", "c/Y")
    assert found.planned_seeds == (1, 2, 101, 102, 1001, 1002)
    assert np.isfinite(found.scores("c/Y", "acc")).sum() == 6

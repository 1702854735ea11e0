"""Which column is what, wide tables, rows of means, and the direction of a metric."""

import pytest

from analysis.read.csv_file import load_csv
from analysis.read.metric_direction import is_doubtful
from tests.helpers.score_tables import HEADER, VARIANTS, score, text


def load(tmp_path, content, **how):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    return load_csv(path, **how)


def fields(*values):
    return lambda variant, dataset, seed: values


@pytest.mark.parametrize(
    "header",
    ["Variant,DATASET,Seed,acc", "method,task,trial,acc", "Model,Benchmark,rep,acc",
     "algorithm,domain,SEED,acc", "variant,data set,random seed,acc", "variant,dataset,run,acc"],
)  # fmt: skip
def test_key_columns_have_synonyms(tmp_path, header):
    results = load(tmp_path, text(header))
    assert (results.variants, results.planned_seeds) == (VARIANTS, (1, 2))
    assert results.metrics == ("acc",) and results.scores("X", "acc")[0, 0] == 0.701
    renamed = [n for n in results.notes if "is read as the" in n or "holds numbers" in n]
    synonyms = [n for n in header.split(",")[:3] if n.lower() not in ("variant", "dataset", "seed")]
    assert all(any(repr(name) in note for note in renamed) for name in synonyms)


def test_the_most_telling_synonym_names_the_variant(tmp_path):
    results = load(tmp_path, text("method,dataset,seed,acc,model", more=fields("ViT-B/16")))
    assert results.variants == VARIANTS and any("text" in n and "model" in n for n in results.notes)


@pytest.mark.parametrize("name", ["epoch", "Epochs", "step", "iter", "best_epoch", "id", "index",
                                  "Unnamed: 0", "timestamp", "data_seed"])  # fmt: skip
def test_columns_that_count_are_no_metrics(tmp_path, name):
    numbers = iter(range(20, 40))
    results = load(tmp_path, text(f"{HEADER},{name}", more=lambda *key: [str(next(numbers))]))
    assert results.metrics == ("acc",)
    assert results.notes == (f"not read as metrics (an index or a count): {name}",)
    numbers = iter(range(20, 40))
    chosen = load(
        tmp_path,
        text(f"{HEADER},{name}", more=lambda *key: [str(next(numbers))]),
        metrics=[name],
    )
    assert chosen.metrics == (name,)


def test_an_index_column_in_front_is_no_metric(tmp_path):
    lines = text().splitlines()
    content = "\n".join([f",{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))])
    assert load(tmp_path, content).metrics == ("acc",)


def test_constants_settings_and_texts_are_no_metrics(tmp_path):
    content = text(
        f"{HEADER},width,lr,comment",
        more=lambda v, d, s: ["50", "0.1" if v == "X" else "0.2", "good" if s == 1 else "bad"],
    )
    results = load(tmp_path, content)
    assert results.metrics == ("acc",)
    assert [n.partition(":")[0] for n in results.notes] == [
        "not read as metrics (text; name a column factor",
        "not read as metrics (constant)",
        "not read as metrics (the same in all rows of a variant)",
    ]


def test_metrics_can_be_chosen_whatever_their_case(tmp_path):
    content = text("variant,dataset,seed,Acc,F1", more=lambda v, d, s: [str(50 + s)])
    assert load(tmp_path, content).metrics == ("Acc", "F1")
    assert load(tmp_path, content, metrics=["f1"]).metrics == ("F1",)
    with pytest.raises(ValueError, match=r"--metrics must name a metric, got 'f2'; known: Acc, F1"):
        load(tmp_path, content, metrics=["f2"])


def test_base_new_and_hm_whatever_their_case(tmp_path):
    content = text("variant,dataset,seed,Base,NEW,H", more=fields("60", "64.69"))
    results = load(tmp_path, content)
    assert results.metrics == ("base", "new", "hm") and results.primary_metric == "hm"
    content = text("variant,dataset,seed,Base,Novel", more=fields("60"))
    assert load(tmp_path, content).metrics == ("base", "new", "hm")


@pytest.mark.parametrize("name", ["average", "all", "nan", "None", "TRUE", "hm_of_means", "best",
                                  "0", "NA", "-", "null", "results", "main"])  # fmt: skip
def test_any_name_is_a_name(tmp_path, name):
    results = load(tmp_path, text().replace("X,", f"{name},"))
    assert results.variants == (name, "Y")
    results = load(tmp_path, text().replace("d1", name))
    assert results.datasets == ("d0", name, "d2") and len(results.frame) == 12
    results = load(tmp_path, text(f"variant,dataset,seed,{name}"))
    assert results.metrics == (name,)


def test_metrics_with_digits_and_dots_are_two(tmp_path):
    content = text("variant,dataset,seed,PCK@0.1,PCK@0.2", more=lambda v, d, s: [str(40 + s)])
    assert load(tmp_path, content).metrics == ("PCK@0.1", "PCK@0.2")


@pytest.mark.parametrize("name", ["max_overlap=0.5", "max over time", "maxofmin", "best_offset",
                                  "best of breed", "seedless", "max-over-patches"])  # fmt: skip
def test_names_that_only_resemble_the_best_of_n(tmp_path, name):
    assert load(tmp_path, text().replace("Y,", f"{name},")).variants == ("X", name)


@pytest.mark.parametrize("name", ["best of 5", "best_of_3", "max over seeds", "best over 3 runs",
                                  "max of the trials", "best seed", "bestof3"])  # fmt: skip
def test_the_best_of_n_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="best of several runs"):
        load(tmp_path, text().replace("Y,", f"{name},"))


def test_one_column_per_dataset(tmp_path):
    content = "method,eurosat,dtd,Average\nCoOp,70.1,60.3,65.2\nOurs,71.1,61.3,66.2\n"
    results = load(tmp_path, content)
    assert (results.variants, results.datasets) == (("CoOp", "Ours"), ("eurosat", "dtd"))
    assert results.scores("Ours", "score").tolist() == [[0.711], [0.613]]
    assert "a wide table: the columns eurosat, dtd are read as one dataset each" in results.notes
    assert "means and spreads are not read: Average" in results.notes
    other = load(tmp_path, content.replace("65.2", "33").replace("66.2", "34"))
    assert other.datasets == ("eurosat", "dtd", "Average")


def test_one_column_per_method(tmp_path):
    results = load(tmp_path, "dataset,seed,base,mine\na,1,70,71\na,2,72,73\nb,1,60,62\nb,2,61,63\n")
    assert (results.variants, results.planned_seeds) == (("base", "mine"), (1, 2))
    assert results.scores("mine", "score").tolist() == [[0.71, 0.73], [0.62, 0.63]]
    results = load(tmp_path, ",CoOp,Ours\na,70,71\nb,60,62\nAverage,65,66.5\n".replace(",", "|"))
    assert results.variants == ("a", "b", "Average")  # an index is the variant


def test_one_column_per_seed_and_one_row_per_metric(tmp_path):
    results = load(tmp_path, "variant,dataset,seed1,seed 2,mean\nX,d,70,71,70.5\nY,d,72,73,72.5\n")
    assert results.planned_seeds == (1, 2) and results.scores("Y", "score").tolist() == [
        [0.72, 0.73]
    ]
    rows = [f"{v},d,1,{m},{70 + i}" for v in "XY" for i, m in enumerate(("acc", "f1"))]
    results = load(tmp_path, "\n".join(["variant,dataset,seed,metric,value", *rows]))
    assert results.metrics == ("acc", "f1") and results.scores("X", "f1").tolist() == [[0.71]]


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ("variant,seed,acc,f1\nX,1,70,60\nY,1,71,61\n", "'dataset'.*on a single dataset, add a"),
        ("dataset,seed,acc,f1\nX,1,70,60\nY,1,71,61\n", "'variant'"),
        ("dataset,base,new\nX,70,60\nY,71,61\n", "'variant'"),
        ("CoOp,Ours\n70,71\n60,62\n", "'variant'"),
    ],
)
def test_columns_that_are_metrics_by_name_are_not_taken_for_names(tmp_path, content, missing):
    with pytest.raises(ValueError, match=f"needs a column {missing}"):
        load(tmp_path, content)


SIX = {"X": (70.23, 72, 74, 76, 78, 80), "Y": (70, 73.17, 75.84, 77.47, 79.18, 80.97)}


def six(*more):
    lines = [f"{v},d{i},1,{x}" for v, scores in SIX.items() for i, x in enumerate(scores)]
    return "\n".join([HEADER, *lines, *more]) + "\n"


@pytest.mark.parametrize("name", ["Average", "avg", "Mean", "AVG.", "overall", "all"])
@pytest.mark.parametrize("seed", ["1", ""])
def test_rows_of_means_are_left_out(tmp_path, name, seed):
    results = load(tmp_path, six(f"X,{name},{seed},75.04", f"Y,{name},{seed},76.07"))
    assert len(results.datasets) == 6 and len(results.frame) == 12
    assert any(f"the rows of {name!r} are the means" in n and "0.04" in n for n in results.notes)


def test_a_dataset_may_be_called_average(tmp_path):
    results = load(tmp_path, six("X,average,1,40.3", "Y,average,1,41.8"))
    assert len(results.datasets) == 7 and results.scores("X", "acc")[-1, 0] == pytest.approx(0.403)
    assert results.notes == (
        "'average' is read as a dataset: its scores are not the means of the other datasets",
    )


def test_rows_that_summarize_seeds_are_left_out(tmp_path):
    results = load(tmp_path, text() + "X,d0,mean,70.15\nX,d0,std,0.05\n")
    assert len(results.frame) == 12
    assert results.notes == ("rows that summarize seeds are left out (mean, std; lines 14, 15)",)


@pytest.mark.parametrize("name", ["err", "error", "top1_err", "valLoss", "NLL", "ece", "rank",
                                  "Brier score", "fpr95", "perplexity", "rmse", "testError", "MAE",
                                  "ErrorRate", "log-loss", "toperror"])  # fmt: skip
def test_the_direction_of_such_a_name_is_asked_for(tmp_path, name):
    content = text(f"variant,dataset,seed,{name}")
    with pytest.raises(ValueError, match=rf"the name of {name} does not tell .*--lower {name} or"):
        load(tmp_path, content)
    results = load(tmp_path, content, lower=[name.upper()])
    assert results.direction(name) == -1 and results.scores("X", name)[0, 0] == 0.701
    assert load(tmp_path, content, higher=[name]).direction(name) == 1


@pytest.mark.parametrize("name", ["acc", "terrain", "Franklin", "glossy", "timeless", "PCK@0.1",
                                  "mAP", "base", "overlap", "closest"])  # fmt: skip
def test_other_names_are_scores(name):
    assert not is_doubtful(name)


def test_an_error_beside_its_accuracy_is_recognized(tmp_path):
    content = text(f"{HEADER},top1_err", more=lambda v, d, s: [f"{100 - score(v, d, s):.2f}"])
    with pytest.raises(ValueError, match=r"\(top1_err is 100 - acc\).*or leave it out with --me"):
        load(tmp_path, content)
    with pytest.raises(ValueError, match=r"the name of wrong does not .*\(wrong is 100 - acc\)"):
        load(tmp_path, content.replace("top1_err", "wrong"))
    assert load(tmp_path, content, metrics=["acc"]).metrics == ("acc",)
    assert load(tmp_path, content, lower=["top1_err"]).lower_is_better == {"top1_err"}


def test_a_file_may_state_the_direction(tmp_path):
    for header in ("ece ↓", "ece (↓)", "lower:ece"):
        results = load(tmp_path, text(f"{HEADER},{header}", more=lambda v, d, s: [f"{3 + s}"]))
        assert results.metrics == ("acc", "ece") and results.lower_is_better == {"ece"}
    results = load(tmp_path, text("variant,dataset,seed,higher:rank"))
    assert results.metrics == ("rank",) and results.direction("rank") == 1


@pytest.mark.parametrize(
    "name", ["time", "train_seconds", "params", "GFLOPs", "memory_mb", "acc_std"]
)
def test_costs_and_spreads_are_left_out(tmp_path, name):
    results = load(tmp_path, text(f"{HEADER},{name}", more=lambda v, d, s: [f"{300 + s}"]))
    assert results.metrics == ("acc",)
    assert results.notes == (
        f"costs and spreads are not compared: {name}; --metrics selects columns",
    )


def test_directions_that_contradict_are_refused(tmp_path):
    content = text("variant,dataset,seed,err")
    with pytest.raises(ValueError, match="err is given as --lower and as --higher"):
        load(tmp_path, content, lower=["err"], higher=["err"])
    with pytest.raises(ValueError, match="--lower must name a metric, got 'x'; known: err"):
        load(tmp_path, content, lower=["x"])
    with pytest.raises(ValueError, match="base is an accuracy, of which higher is better"):
        load(tmp_path, text("variant,dataset,seed,base"), lower=["base"])


def test_every_metric_can_have_a_scale_of_its_own(tmp_path):
    content = text(f"{HEADER},ece", more=lambda v, d, s: [f"{0.03 + s / 100}"])
    with pytest.raises(ValueError, match=r"looks like a fraction; --scale ece=fraction, or say"):
        load(tmp_path, content, lower=["ece"])
    results = load(tmp_path, content, lower=["ece"], scale=["ece=fraction"])
    assert results.scores("X", "ece")[0, 0] == 0.04 and results.scores("X", "acc")[0, 0] == 0.701
    results = load(tmp_path, content, lower=["ece"], scale=["percent"])
    assert results.scores("X", "ece")[0, 0] == pytest.approx(0.0004)


def test_names_that_differ_in_letter_case_alone_are_said(tmp_path):
    results = load(tmp_path, text().replace("Y,d1", "Y,D1"))
    assert "datasets whose names differ in letter case alone: d1, D1" in results.notes

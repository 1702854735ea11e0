"""What a report says about the training of its variants, and which works it cites for them."""

import re
from dataclasses import replace

import pytest

from analysis.read.budgets import NOT_RECORDED, read_trainings
from analysis.read.load import load_results
from analysis.sections.section import numbered
from analysis.sections.trainings import training_sentences, training_terms
from core.store.record import read_record, record_paths, write_record
from core.store.settings import Operative, plain_value, write_config, write_operative
from experiments.cli.app import main
from tests.helpers.study_folders import make_study

DEFAULTS = {
    "experiment.method": "@CoOp",
    "experiment.refiner": "@NullRefiner",
    "experiment.backbone": "'ViT-B-16-quickgelu'",
    "experiment.weights": "'openai'",
    "experiment.epochs": "30",
    "experiment.batch_size": "32",
    "experiment.optimizer": "@SGD",
    "experiment.schedule": "@ConstantThenCosine",
    "experiment.selection": "'last'",
    "experiment.patience": "0",
    "SGD.lr": "0.002",
    "Adam.lr": "0.0025",
}
SOURCES = {
    "CoOp": "Zhou et al., Learning to Prompt, IJCV 2022, arXiv 2109.01134.",
    "TextRefiner": "Xie et al., AAAI 2025, arXiv 2412.08176.",
    "ZeroShot": "Radford et al., ICML 2021, arXiv 2103.00020.",
    "Adam": "Kingma and Ba, ICLR 2015, arXiv 1412.6980.",
    "Mine": "A. Author, Title, 2031, arXiv 3101.00001.",
    "Gate": "ours.",
}
VARIANTS = {
    "CoOp": ({}, ("CoOp", "Gate")),
    "TextRefiner": ({"experiment.refiner": "@TextRefiner"}, ("CoOp", "TextRefiner")),
    "own": (
        {
            "experiment.method": "@Mine",
            "experiment.epochs": "5",
            "experiment.optimizer": "@Adam",
            "experiment.batch_size": "4",
        },
        ("Mine", "Adam"),
    ),
}


def study(folder, variants=VARIANTS, *, edit=lambda variant, dataset, values: values, older=()):
    """A study whose runs say how they were trained; those of ``older`` only what was bound."""
    make_study(folder, dict.fromkeys(variants, (0, 0)), datasets=2, seeds=2)
    for path in record_paths(folder):
        record = read_record(path.parent)
        changed, used = variants[record.variant]
        values = edit(record.variant, record.dataset, {**DEFAULTS, **changed})
        text = "".join(f"{key} = {value}\n" for key, value in sorted(changed.items()))
        if record.variant in older:
            write_record(
                path.parent, replace(record, config_sha256=write_config(path.parent, text))
            )
            continue
        sha256 = write_config(path.parent, text)
        sources = {name: SOURCES[name] for name in used}
        write_operative(path.parent, Operative(settings=values, sources=sources))
        selected = 0 if "ZeroShot" in used else None
        write_record(path.parent, replace(record, config_sha256=sha256, selected_epoch=selected))
    return folder


def said(folder):
    found = read_trainings(load_results(folder), folder)
    return " ".join(sentence.text for sentence in training_sentences(found))


def test_the_paragraph_names_methods_backbone_budget_and_rate(tmp_path):
    text = said(study(tmp_path / "s"))
    assert "The compared methods are CoOp, TextRefiner and Mine." in text
    assert "Parts and settings with a published source are Adam." in text
    assert "The frozen backbone is ViT-B-16-quickgelu (openai)." in text
    assert (
        "Training takes 30 epochs, batches of 32 images, the optimizer SGD, a learning rate of "
        "0.002 and the schedule ConstantThenCosine."
    ) in text
    assert (
        "Variants with a budget of their own: own: 5 epochs, batches of 4 images, the optimizer "
        "Adam, a learning rate of 0.0025."
    ) in text


def test_the_compared_methods_are_cited_and_the_bib_has_them(tmp_path):
    folder = study(tmp_path / "s")
    sentence = training_sentences(read_trainings(load_results(folder), folder))[0]
    keys = [work.key for work in sentence.citations]
    assert keys == ["zhou2022coop", "xie2025textrefiner", "mine310100001"]
    assert numbered(sentence, sentence.citations) == (
        "The compared methods are CoOp [1], TextRefiner [2] and Mine [3]."
    )


def test_every_form_of_the_report_has_them(tmp_path, monkeypatch, capsys):
    folder = study(tmp_path / "s")
    monkeypatch.setattr("sys.argv", ["main.py", "report", str(folder), "--no-figures"])
    assert main() == 0
    capsys.readouterr()
    bib = (folder / "report" / "references.bib").read_text()
    for key, eprint in (("zhou2022coop", "2109.01134"), ("mine310100001", "3101.00001")):
        (entry,) = [part for part in bib.split("\n@") if key in part]
        assert f"eprint = {{{eprint}}}" in entry
    tex = (folder / "report" / "report.tex").read_text()
    assert r"\bibitem{mine310100001}" in tex and r"\cite{zhou2022coop" in tex
    assert "Training takes 30 epochs" in (folder / "report" / "index.html").read_text()


def test_budgets_of_several_datasets_are_all_named(tmp_path):
    def edit(variant, dataset, values):
        long = variant == "CoOp" and dataset.endswith("1")
        return {**values, **({"experiment.epochs": "200"} if long else {})}

    text = said(study(tmp_path / "s", edit=edit))
    assert "Training takes 30 or 200 epochs" in text
    assert "budget of their own: TextRefiner: 30 epochs; own: 5 epochs" in text


def test_a_variant_without_steps_has_no_budget(tmp_path):
    variants = {
        "CoOp": ({}, ("CoOp",)),
        "frozen": ({"experiment.method": "@ZeroShot"}, ("ZeroShot",)),
    }
    text = said(study(tmp_path / "s", variants))
    assert "frozen took no training steps." in text and "budget of their own" not in text
    alone = {"frozen": variants["frozen"], "again": variants["frozen"]}
    text = said(study(tmp_path / "t", alone))
    assert "frozen and again took no training steps." in text and "Training takes" not in text


def test_early_stopping_is_in_the_paragraph_and_in_the_design(tmp_path):
    stop = {"experiment.selection": "'val'", "experiment.patience": "3"}
    folder = study(tmp_path / "s", {"CoOp": ({}, ("CoOp",)), "stop": (stop, ("CoOp",))})
    (first, *_) = [p for p in record_paths(folder) if read_record(p.parent).variant == "stop"]
    write_record(first.parent, replace(read_record(first.parent), stopped_epoch=7))
    found = read_trainings(load_results(folder), folder)
    words = "stop: patience 3, 1 runs stopped"
    assert words in said(folder)
    assert "learning rates follow the schedule of the full budget" in said(folder)
    assert training_terms(found) == [
        (
            "Early stopping",
            f"{words}; learning rates follow the schedule of the full budget",
        )
    ]
    assert training_terms({"CoOp": found["CoOp"]}) == []


def test_runs_of_an_earlier_version_say_what_they_know(tmp_path):
    variants = {
        "CoOp": ({"experiment.method": "@CoOp", "experiment.epochs": "9"}, ("CoOp",)),
        "PromptSRC": ({"experiment.method": "@PromptSRC", "SGD.lr": "0.1"}, ("CoOp",)),
    }
    folder = study(tmp_path / "s", variants, older=tuple(variants))
    text = said(folder)
    assert "The compared methods are CoOp and PromptSRC." in text
    assert "9 epochs" in text and NOT_RECORDED not in text
    assert "which did not record them" in text
    works = training_sentences(read_trainings(load_results(folder), folder))[0].citations
    assert [work.key for work in works] == ["zhou2022coop", "khattak2023promptsrc"]


def test_a_table_says_nothing_about_training(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{v},{d},{s},{0.5 + s / 100}" for v in "ab" for d in "xy" for s in (1, 2)]
    path.write_text("\n".join(["variant,dataset,seed,accuracy", *rows]))
    results = load_results(path, baseline="a")
    assert read_trainings(results, None) == {} == read_trainings(results, tmp_path)
    assert training_sentences({}) == []


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("'a photo of a'", "a photo of a"),
        ('"it\'s"', "it's"),
        ("0.002", "0.002"),
        ("1e-05", "1e-05"),
        ("('a', 'b')", "(a, b)"),
        ("(0.08, 1.0)", "(0.08, 1.0)"),
        ("@CoOp", "@CoOp"),
        ("(@A, 'b')", "(@A, 'b')"),
        ("None", "None"),
        ("''", ""),
        ("{'a': 1}", "{'a': 1}"),
        ("'" + "(" * 300 + "'", "(" * 300),
    ],
)
def test_values_are_shown_without_quotes(text, plain):
    assert plain_value(text) == plain
    assert not re.match("['\"]", plain_value(text))

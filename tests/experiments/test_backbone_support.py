"""What a backbone cannot do is refused by every command, before data are read or weights needed."""

import json
import sys

import pytest

import main
from experiments.cli.list import listing

SETS = ("experiment.dataset=mosaic/vehicles", "experiment.weights=openai", "experiment.epochs=1")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder where no data may be read."""
    monkeypatch.chdir(tmp_path)

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("experiments.run.data_inputs.load_dataset", refuse)

    def run(*words: str, sets: tuple[str, ...] = ()) -> tuple[int, str]:
        chosen = [word for setting in (*SETS, *sets) for word in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["main.py", *words, *chosen])
        code = main.main()
        return code, capsys.readouterr().err.strip().splitlines()[-1]

    return run


@pytest.mark.parametrize(
    ("preset", "backbone", "tower"),
    [
        ("ivlp", "RN50", "image"),
        ("promptsrc", "RN101-quickgelu", "image"),
        ("promptkd", "RN50x4", "image"),
        ("sep", "EVA02-B-16", "image"),
        ("maple", "convnext_base", "image"),
        ("ivlp_language_only", "ViT-B-16-SigLIP", "text"),
        ("tcp", "ViT-B-16-SigLIP2", "text"),
        ("clip_lora", "RN50-quickgelu", "image"),
    ],
)
def test_a_method_that_needs_a_way_in_is_refused_first(call, preset, backbone, tower):
    code, line = call("train", preset, sets=(f"experiment.backbone={backbone}",))
    assert code == 2
    assert f" works inside the {tower} tower: backbone '{backbone}' has no place" in line
    assert line.endswith("such as ViT-B-16-quickgelu")


@pytest.mark.parametrize("method", ["IVLP", "CoOp"])
def test_a_grid_is_refused_in_its_plan(monkeypatch, capsys, tmp_path, call, method):
    (tmp_path / "mine.gin").write_text(
        "include 'coop.gin'\ngrid.study = 'mine'\ngrid.datasets = ('mosaic/vehicles',)\n"
        f"grid.seeds = (1,)\ngrid.variants = {{'mine': {{'experiment.method': @{method}}}}}\n"
        "experiment.backbone = 'RN50'\nexperiment.weights = 'openai'\ngrid.baseline = 'mine'\n"
    )
    monkeypatch.setattr(sys, "argv", ["main.py", "grid", "mine.gin", "--dry-run"])
    if method == "CoOp":
        with pytest.raises(AssertionError, match="data were read"):
            main.main()
        return
    assert main.main() == 2
    assert "IVLP works inside the image tower: backbone 'RN50'" in capsys.readouterr().err


def test_methods_without_deep_prompts_come_to_their_data(call):
    for preset, backbone in (
        ("coop", "RN50"),
        ("ivlp_language_only", "RN50"),
        ("tcp", "EVA02-B-16"),
        ("text_refiner", "ViT-B-16-SigLIP"),
        ("zero_shot", "convnext_base"),
    ):
        with pytest.raises(AssertionError, match="data were read"):
            call("train", preset, sets=(f"experiment.backbone={backbone}",))


def test_the_list_says_what_each_kind_of_towers_leaves_out():
    rows = listing("backbones")
    assert json.dumps(rows)
    by_model = {model: row for row in rows for model in row["models"]}
    assert by_model["mosaic"]["methods that do not run"] == ""
    assert by_model["ViT-B-16"] is by_model["mosaic"]
    for model, out, runs in (
        ("RN50", {"IVLP", "PromptSRC", "PromptKD", "SEP", "MaPLe", "ClipLoRA"}, {"CoOp", "TCP"}),
        ("ViT-B-16-SigLIP", {"IVLP", "TCP"}, {"CoOp", "CoCoOp", "ZeroShot"}),
    ):
        left_out = set(by_model[model]["methods that do not run"].split(", "))
        assert out <= left_out and not runs & left_out
    assert by_model["RN50"]["local tokens"] == "yes"
    assert by_model["convnext_base"]["local tokens"] == "no"
    assert "coca_ViT-B-32" not in by_model

"""The inspect command: every kind of run, what it cannot show, and what it refuses."""

import json
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import main
from analysis.figures.colors import PRINT
from analysis.figures.contact_sheet import lit, pixels_of, tinted
from analysis.inspect_page import write_inspection
from analysis.sections.inspection import TOPICS
from core.data.catalog import load_dataset
from core.data.export import export_dataset
from core.store.record import write_record
from core.types import Memory
from experiments.run.inspection import inspect_run
from experiments.run.run import reload
from experiments.run.runtime import Runtime
from methods.prograd import ProGrad
from tests.helpers.two_step_runs import OFF, ON, run_text, two_steps


@pytest.fixture(scope="module")
def place(small_mosaic):
    return Runtime(cache_dir=small_mosaic)


@pytest.fixture
def trained(tmp_path, place):
    """Trains a configuration for a step or two and inspects the run."""

    def train(text, name="run"):
        folder = tmp_path / name
        write_record(folder, run_text(text, folder, place.cache_dir))
        return folder

    return train


def look(folder, place, images=24):
    return inspect_run(folder, place, num_images=images)


def test_a_run_that_logs_metrics_shows_them_beside_its_losses(trained, place, monkeypatch):
    told = iter([{"gap": float("nan"), "late": 1.0}, {"gap": 0.5}, {"gap": 0.25}])
    monkeypatch.setattr(ProGrad, "metrics", lambda self: next(told, {}))
    text = two_steps("ProGrad").replace("epochs = 1", "epochs = 3")
    found = look(trained(text), place)
    (topic,) = (shown.topic for shown in TOPICS if shown.topic.key == "training")
    (figure,) = topic.build(found)[0].figures
    curves = {curve.dataset: (curve.epochs, curve.mean) for curve in figure.info}
    assert list(curves) == ["loss", "ce", "zero_shot", "metrics.late", "metrics.gap"]
    assert curves["metrics.gap"] == ((2, 3), (0.5, 0.25))
    assert curves["metrics.late"] == ((1,), (1.0,)) and curves["loss"][0] == (1, 2, 3)
    assert figure.draw(PRINT) is not None


@pytest.mark.parametrize("cache", ["EmaCache", "QueueCache", "LearnedCache", "ClassCache"])
def test_slots_are_shown_with_texts_and_patches(trained, place, cache):
    folder = trained(two_steps("CoOp", refiner=ON.replace("EmaCache", cache)))
    found = look(folder, place)
    memory = reload(folder, place).model.refiner.memory()
    assert isinstance(memory, Memory) and found.num_slots == len(memory.slots) > 0
    assert found.slots and not found.not_shown
    assert [v.share for v in found.slots] == sorted((v.share for v in found.slots), reverse=True)
    for view in found.slots:
        assert len(view.texts) == 2 and view.texts[0].value >= view.texts[1].value
        assert len({p.path for p in view.patches}) == len(view.patches) == 6
        cosines = [p.cosine for p in view.patches]
        assert cosines == sorted(cosines, reverse=True) and -1 <= cosines[-1] <= cosines[0] <= 1.001
        assert bool(view.label) == (cache == "ClassCache")


def test_a_slot_that_is_a_patch_finds_that_patch(trained, place, monkeypatch):
    """The largest cosine is 1, at the patch whose token the slot is."""
    folder = trained(two_steps("CoOp", refiner=ON))
    built = reload(folder, place)
    part, spec = built.dataset, built.model.method.clip.spec
    item = part.test[0]
    from core.data.pixels import load_pixels
    from core.data.transforms import EvalTransform
    from core.types import Batch

    pixels = load_pixels(part, [item], EvalTransform(spec))
    batch = Batch(
        labels=torch.tensor([0]), pixels=pixels, need=frozenset({"pooled", "local", "attention"})
    )
    with torch.no_grad():
        token = built.model.refiner.memory_tokens(built.model.method(batch))[0, 1 + 8]
    monkeypatch.setattr(type(built.model.refiner), "memory", lambda self: Memory(slots=token[None]))
    (view,) = look(folder, place).slots
    first = view.patches[0]
    assert first.path == item.path and first.cosine == pytest.approx(1.0, abs=1e-4)
    assert view.share == 1.0
    row, column = divmod(8, spec.grid[1])
    assert (row, column) == (1, 2)
    assert first.box == pytest.approx((1 / 3, 1 / 3, 2 / 3, 2 / 3))
    crop = np.asarray(Image.open(BytesIO(first.png)))
    whole = np.asarray(part.reader.read(item.path))
    side = whole.shape[0] // spec.grid[0]
    np.testing.assert_array_equal(crop, whole[: 3 * side, side : 4 * side])


def test_attention_and_predictions_are_those_of_the_model(trained, place):
    folder = trained(two_steps("CoOp", refiner=ON))
    found = look(folder, place)
    assert len(found.attention) == 9
    for view in found.attention:
        patches = view.grid[0] * view.grid[1]
        assert len(view.attention) == len(view.slots) == patches
        assert 0 < sum(view.attention) <= 1.001 and set(view.slots) <= set(range(25))
    stored = {p.target: p for p in found.predictions}
    for pair in found.confused:
        p = stored[pair.subset]
        cells = list(zip(p.labels, p.predicted, strict=True))
        wanted = (p.class_names.index(pair.true), p.class_names.index(pair.predicted))
        assert pair.count == cells.count(wanted) and 0 < len(pair.examples) <= 5
        assert {e.predicted for e in pair.examples} == {pair.predicted}


def test_words_near_a_context_that_is_a_word(trained, place):
    """Context vectors that are the embeddings of words find these words at distance 0."""
    text = two_steps("CoOp", "CoOp.ctx_init = 'a photo of the'")
    folder = trained(text.replace("SGD.lr = 0.01", "SGD.lr = 1e-9"))
    vectors = look(folder, place).context
    assert [v.by_cosine[0].name for v in vectors] == ["a", "photo", "of", "the"]
    assert [v.by_distance[0].name for v in vectors] == ["a", "photo", "of", "the"]
    assert [v.by_distance[0].value for v in vectors] == pytest.approx([0.0] * 4, abs=1e-4)
    assert [v.name for v in vectors] == ["ctx 1", "ctx 2", "ctx 3", "ctx 4"]


def test_class_specific_contexts_are_named_by_class(trained, place):
    settings = "CoOp.class_specific = True\nexperiment.protocol = 'few_shot'"
    vectors = look(trained(two_steps("CoOp", settings)), place).context
    assert len(vectors) == 32 and vectors[0].name == "ctx 1, brown bus with flag"


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("CoCoOp", "", 4),
        ("IVLP", "", 2),
        ("SEP", "SEP.num_ctx_vision = 2", 6),
        ("PromptSRC", "", 4),
        ("PromptKD", "", 0),
    ],
)
def test_every_method_shows_what_it_has(trained, place, monkeypatch, method, settings, words):
    from tests.helpers.preset_runs import few_test_images

    few_test_images(monkeypatch)
    found = look(trained(two_steps(method, settings)), place, images=8)
    assert len(found.context) == words and ("context" in found.not_shown) == (not words)
    assert "memory" in found.not_shown and len(found.attention) == 8
    assert all(view.slots == () for view in found.attention)


def test_a_run_that_trains_nothing_gets_the_rest(trained, place, tmp_path):
    text = (
        "experiment.method = @ZeroShot\nexperiment.refiner = @NullRefiner\n"
        "experiment.optimizer = None\nexperiment.schedule = None\n"
        "experiment.dataset = 'mosaic/vehicles'\n"
    )
    found = look(trained(text), place)
    assert found.record.seed is None and set(found.not_shown) == {"memory", "context"}
    page = write_inspection(found, tmp_path / "out").read_text()
    assert "trained nothing" in page and "has no memory" in page and "Not shown" in page
    assert not (tmp_path / "out" / "memory.png").exists()


@pytest.mark.parametrize("settings", ["TDA", "TPT.test_views = 2"])
def test_a_run_that_adapts_says_that_it_is_shown_before(
    trained, place, tmp_path, monkeypatch, settings
):
    from tests.helpers.preset_runs import few_test_images

    few_test_images(monkeypatch)
    name, _, changed = settings.partition(".")
    found = look(trained(two_steps(name, changed and settings)), place, images=8)
    assert found.record.seed == 1 and len(found.attention) == 8
    assert f"before {name} adapts" in found.not_shown["adaptation"]
    assert f"before {name} adapts." in write_inspection(found, tmp_path / "out").read_text()


def test_a_refiner_with_its_parts_off_has_no_memory(trained, place):
    assert "no memory" in look(trained(two_steps("CoOp", refiner=OFF)), place).not_shown["memory"]


def test_runs_without_stored_predictions_predict_again(trained, place):
    folder = trained(two_steps("CoOp", refiner=ON))
    before = look(folder, place).predictions
    (folder / "predictions.json").unlink()
    assert [list(p.predicted) for p in look(folder, place).predictions] == [
        list(p.predicted) for p in before
    ]


def test_a_folder_of_images_is_inspected(trained, place, tmp_path):
    drawn = load_dataset("mosaic/vehicles", root=None, cache_dir=place.cache_dir)
    export_dataset(drawn, tmp_path / "tree")
    name = f"folder/{tmp_path}/tree"
    text = two_steps("CoOp", refiner=ON).replace("mosaic/vehicles", name)
    found = look(trained(text), place)
    assert found.slots[0].patches and not found.not_shown


@pytest.fixture
def page(trained, place):
    """The files of a whole inspection."""
    folder = trained(two_steps("CoOp", refiner=ON))
    done = CliRunner().invoke(
        main.app, ["inspect", str(folder), "--images", "16", "--runs", str(place.cache_dir.parent)]
    )
    assert done.exit_code == 0, done.output
    assert done.output.strip() == f"page: {folder}/inspect/index.html"
    return folder / "inspect"


def test_the_page_stands_alone(page):
    names = {path.name for path in page.iterdir()}
    pictures = {"memory", "attention", "confusions", "classes", "reliability", "training"}
    assert names == {"index.html", "inspection.json", *(f"{name}.png" for name in pictures)}
    text = page.joinpath("index.html").read_text()
    assert "<script" not in text and not re.findall(r'(?:src|href)="https?:', text)
    assert "What the memory has learned" in text and "prefers-color-scheme: dark" in text
    assert "data:image/png;base64" in text and "Slot " in text
    raw = json.loads(page.joinpath("inspection.json").read_text())
    slots = raw["sections"]["memory"]["figures"]["memory"]
    assert len(slots) == 12 and {"slot", "share", "texts", "patches"} <= set(slots[0])
    assert "png" not in slots[0]["patches"][0]
    for name in pictures:
        assert Image.open(page / f"{name}.png").width > 300


def test_what_is_no_finished_run_is_refused_in_one_line(trained, place, tmp_path):
    def refusal(*arguments):
        done = CliRunner().invoke(main.app, ["inspect", *map(str, arguments)])
        assert isinstance(done.exception, ValueError), done.output
        assert "\n" not in str(done.exception)
        return str(done.exception)

    assert "not a run folder" in refusal(tmp_path / "nothing")
    folder = trained(two_steps("CoOp"))
    (tmp_path / "file").write_text("")
    assert "not a folder" in refusal(folder, "--out", tmp_path / "file")
    (folder / "record.json").unlink()
    assert "has no record" in refusal(folder)
    assert not (folder / "inspect").exists()
    with pytest.raises(ValueError, match="at least 1"):
        inspect_run(folder, place, num_images=0)


def test_patches_are_lit_and_tinted_where_they_are():
    pixels = np.full((4, 4, 3), 200, np.uint8)
    bright = lit(pixels, (2, 2), [1.0, 0.0, 0.5, 0.0])
    assert bright[0, 0, 0] == 200 and bright[0, 3, 0] == round(200 * 0.22)
    assert bright[3, 0, 0] == round(200 * (0.22 + 0.78 * 0.5))
    tint = tinted(pixels, (2, 2), [5, 6, 7, 7], {6: "#ff0000"})
    assert tuple(tint[0, 0]) == (200, 200, 200)
    assert tint[0, 2, 0] > 200 > tint[0, 2, 1]


def test_a_picture_keeps_its_pixels():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    np.testing.assert_array_equal(pixels_of(buffer.getvalue()), pixels)

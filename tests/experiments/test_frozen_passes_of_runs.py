"""How often runs decode an image and pass it through the frozen tower."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import core.clip.backbone as backbone
import experiments.run.image_source as image_source
from core.clip.frozen import FrozenCLIP
from core.config import config_from_text
from core.data.folder import FolderReader
from experiments.run.data_inputs import read_data_inputs
from experiments.run.preflight import preflight
from experiments.run.run import assemble, train
from experiments.run.runtime import Runtime
from tests.helpers.tiny_clip import shared_tiny_clip
from tests.helpers.two_step_runs import run_text, two_steps


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Four classes of twelve images that are larger than the tiny CLIP sees, which runs load."""
    noise = np.random.default_rng(0)
    for label in range(4):
        folder = tmp_path / "images" / f"kind {label}"
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = noise.integers(0, 60 + 50 * label, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    made = shared_tiny_clip()
    monkeypatch.setattr(backbone, "load_clip", lambda *_: made)
    for cached in (backbone._shared_clip, image_source._store, image_source._crops):
        cached.cache_clear()
    yield tmp_path / "images"
    for cached in (backbone._shared_clip, image_source._store, image_source._crops):
        cached.cache_clear()


@pytest.fixture
def opened(monkeypatch):
    paths, read = [], FolderReader.read
    monkeypatch.setattr(FolderReader, "read", lambda s, path: paths.append(path) or read(s, path))
    return paths


@pytest.fixture
def passes(monkeypatch):
    """The number of images of each pass through the tower without a hook."""
    numbers, encode = [], FrozenCLIP.encode_image

    def counting(self, pixels, *hook, need=frozenset({"pooled"})):
        if not hook:
            numbers.append(len(pixels))
        return encode(self, pixels, *hook, need=need)

    monkeypatch.setattr(FrozenCLIP, "encode_image", counting)
    return numbers


def text(tree, method, *settings):
    lines = "\n".join((f"experiment.dataset = 'folder/{tree}'", "experiment.epochs = 3", *settings))
    plain = two_steps(method, "")
    kept = [x for x in plain.splitlines() if not x.startswith(("experiment.dataset", "experiment.ep"))]  # fmt: skip  # noqa: E501
    return "\n".join((*kept, lines))


def test_images_with_a_fixed_view_are_decoded_once_for_all_methods(tree, tmp_path, opened):
    records = {}
    for name in ("IVLP", "MaPLe", "PromptSRC", "PromptKD", "SEP"):
        records[name] = run_text(text(tree, name), tmp_path / name, tmp_path / "cache")
        decodes = [path for path in opened if opened.count(path) > 2]
        assert not decodes  # the check before training opens each once, too
    off = text(tree, "IVLP", "experiment.crop_cache_gb = 0")
    opened.clear()
    record = run_text(off, tmp_path / "off", tmp_path / "cache")
    assert len(opened) > len(set(opened))  # every epoch, and the evaluation
    assert record.evaluations == records["IVLP"].evaluations
    assert record.weights_sha256 == records["IVLP"].weights_sha256


def test_features_are_made_of_the_images_that_another_method_has_decoded(tree, tmp_path, opened):
    """Bit for bit those of the files, under the same key; a study of features keeps no images."""
    counts, kept = {}, {}
    for folder in ("alone", "shared", "off"):
        root = tmp_path / folder
        if folder != "alone":
            run_text(text(tree, "IVLP"), root / "IVLP", root)
        opened.clear()
        off = ("experiment.crop_cache_gb = 0",) if folder == "off" else ()
        run_text(text(tree, "CoOp", *off), root / "CoOp", root)
        counts[folder] = len(opened)
        assert (root / "crops").exists() == (folder != "alone")
        files = (file for file in sorted(root.rglob("*.safetensors")) if "pooled" in file.parts)
        kept[folder] = {file.relative_to(root): file.read_bytes() for file in files}
    checked = counts["alone"] - counts["off"]  # once, before the first run
    assert counts["shared"] == 0 and checked == counts["off"] > 0
    assert kept["alone"] and kept["alone"] == kept["shared"] == kept["off"]


def test_augmented_features_are_made_of_whole_images(tree, tmp_path, opened):
    run_text(text(tree, "IVLP"), tmp_path / "IVLP", tmp_path / "cache")
    opened.clear()
    views = text(tree, "CoOp", "experiment.num_views = 2")
    run_text(views, tmp_path / "CoOp", tmp_path / "cache")
    assert sorted(opened) == sorted(2 * list(set(opened))) and len(opened) == 2 * 2 * 2


def test_frozen_features_of_fixed_views_are_computed_once_for_all_runs(tree, tmp_path, passes):
    """One padded batch for the training images, one for each list of test images."""
    counts = {}
    for name in ("SEP", "PromptSRC", "PromptKD"):
        passes.clear()
        run_text(text(tree, name), tmp_path / name, tmp_path / "cache")
        counts[name] = len(passes)
    # PromptKD, which needs no labels, trains on images of all classes
    assert counts == {"SEP": 3, "PromptSRC": 0, "PromptKD": 1}
    passes.clear()
    run_text(text(tree, "SEP"), tmp_path / "again", tmp_path / "cache")
    assert passes == []


@pytest.mark.parametrize("name", ["SEP", "PromptSRC"])
def test_fixed_views_train_without_a_frozen_pass(name, tree, tmp_path, passes):
    fixed = ("experiment.num_views = 2", "experiment.fixed_views = True")
    runtime = Runtime(cache_dir=tmp_path / "cache")

    def trained(*settings):
        built = assemble(config_from_text(text(tree, name, *settings)), runtime)
        passes.clear()
        train(built, lambda epoch: None)
        return built.model.state_dict(), passes.copy()

    first, seen = trained(*fixed)
    assert len(seen) == 2  # one for each view of all images
    second, seen = trained(*fixed)
    assert seen == []
    assert all(torch.equal(first[key], second[key]) for key in first)
    fresh, seen = trained("experiment.num_views = 1")
    assert len(seen) >= 3  # in every step
    assert any(not torch.equal(first[key], fresh[key]) for key in first)


def test_fixed_views_are_part_of_the_identity_only_where_they_can_matter():
    def identity(method, *lines):
        return config_from_text(two_steps(method, "\n".join(lines))).identity("experiment")

    on = "experiment.fixed_views = True"
    two, three = "experiment.num_views = 2", "experiment.num_views = 3"
    for method in ("IVLP", "PromptKD"):
        assert identity(method, two) == identity(method, three)  # new ones are not counted
        assert identity(method, two, on) != identity(method, two)
        assert identity(method, two, on) != identity(method, three, on)
    assert identity("CoOp", two, on) == identity("CoOp", two)  # cached features are of fixed views
    assert identity("IVLP", "experiment.crop_cache_gb = 0") == identity("IVLP")
    alone = "experiment.augmentation = @NoAugmentation"
    assert identity("IVLP", two, on, alone) == identity("IVLP")


@pytest.mark.parametrize(
    "lines", [("experiment.num_views = 0",), ("experiment.fresh_views = True",)]
)
def test_fixed_views_need_views_to_keep(lines, tree, tmp_path):
    both = ("experiment.num_views = 1", *lines, "experiment.fixed_views = True")
    settings = "\n".join(both[1:] if "num_views" in lines[0] else both)
    config = config_from_text(text(tree, "IVLP", settings))
    with pytest.raises(ValueError, match=r"experiment\.fixed_views keeps to the fixed augmented"):
        read_data_inputs(config, Runtime(cache_dir=tmp_path / "cache"))


def test_two_compared_views_need_two_fixed_ones(tree, tmp_path):
    on = ("experiment.num_views = 1", "experiment.fixed_views = True")
    config = config_from_text(text(tree, "CoPrompt", *on))
    with pytest.raises(ValueError, match="CoPrompt compares 2 augmented views"):
        read_data_inputs(config, Runtime(cache_dir=tmp_path / "cache"))
    run_text(
        text(tree, "CoPrompt", "experiment.num_views = 2", on[1]), tmp_path / "run",
        tmp_path / "cache",
    )  # fmt: skip
    line = (tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1]
    assert json.loads(line)["epoch"] == 3


def test_a_plan_tells_how_much_decoded_images_take(tree, tmp_path):
    """For methods on pixels, and only where they are kept."""

    def found(method, *settings):
        config = config_from_text(text(tree, method, *settings))
        return preflight([config], Runtime(cache_dir=tmp_path / "cache"))

    (note,) = found("IVLP").notes()
    (paths,) = found("IVLP").paths.values()
    megabytes = len(paths) * 48 * 48 * 3 / 10**6
    line = (
        "decoded images that runs share: at most {:.1f} MB on disk "
        "(experiment.crop_cache_gb = 20; 0 keeps none)"
    )
    assert note == line.format(megabytes)
    augmented = found("IVLP", "experiment.num_views = 1")
    (kept,) = augmented.crops.values()
    tested = {item.path for item in augmented.datasets[f"folder/{tree}"].test}
    assert kept == tested < paths.keys()
    assert augmented.notes() == [line.format(len(tested) * 48 * 48 * 3 / 10**6)]
    assert found("CoOp").notes() == found("IVLP", "experiment.crop_cache_gb = 0").notes() == []

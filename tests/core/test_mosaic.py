"""Mosaic: one seed one picture, no test class in pre-training, safe caches, exact resumption."""

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import core.mosaic
from core.clip.backbone import build_open_clip, load_clip
from core.mosaic import datasets
from core.mosaic.architecture import CONTEXT_LENGTH, MODEL_CONFIG, WEIGHTS_PATH
from core.mosaic.batches import BatchSampler
from core.mosaic.captions import write_caption
from core.mosaic.classes import CLASSES, HELD_OUT
from core.mosaic.corpus import CONDITIONS, draw_corpus, sample_pretraining_subject
from core.mosaic.model import save_weights, tokenizer
from core.mosaic.pretraining import encode_cut_text, pretrain
from core.mosaic.reader import draw_image
from core.mosaic.renderer import image_generator, render_sample
from core.mosaic.world import FAMILIES, Conditions, family_of, name_of, sample_subject
from core.mosaic.zeroshot import zero_shot

SIX = [name for name in datasets.DATASETS if not name.startswith("shapes-")]
TINY = {
    "embed_dim": 16,
    "vision_cfg": {**MODEL_CONFIG["vision_cfg"], "width": 32, "layers": 1},
    "text_cfg": {**MODEL_CONFIG["text_cfg"], "width": 32, "layers": 1},
}


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures a class, so that a whole dataset is drawn in a moment."""
    monkeypatch.setattr(datasets, "PER_CLASS", {"train": 1, "val": 1, "test": 2})


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_a_picture_is_the_same_every_time_and_differs_from_the_next(name):
    specification = datasets.SPECIFICATIONS[name]
    subject = CLASSES[specification.family][3]
    first, again, other = (
        draw_image(name, "test", subject, number, specification.conditions) for number in (0, 0, 1)
    )
    assert first.shape == (48, 48, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_known_stream_gives_known_numbers():
    """The streams that all pictures come from: should numpy ever change them, this says so."""
    rng = image_generator("mosaic", "shapes", "test", 0)
    assert [int(rng.integers(1000)) for _ in range(4)] == [753, 671, 324, 124]
    assert rng.random() == 0.9895869461495219


def test_splits_of_a_class_share_no_picture():
    specification = datasets.SPECIFICATIONS["vehicles"]
    subject = CLASSES["vehicles"][0]
    seen = {
        draw_image("vehicles", split, subject, number, specification.conditions).tobytes()
        for split in ("train", "val", "test")
        for number in range(8)
    }
    assert len(seen) == 24


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_in_every_style(family):
    styles = [*dict(CONDITIONS.styles), "tint", "corrupt"]
    for style in styles:
        rng = image_generator("style", family, style)
        conditions = Conditions(styles=((style, 1.0),), occlusion=0.5, clutter=(1, 3))
        picture, look = render_sample(sample_subject(family, rng), conditions, rng)
        assert look.style == style
        assert picture.std() > 1


def test_no_class_of_a_data_set_occurs_in_pretraining():
    subjects = [sample_pretraining_subject(image_generator("held out", k)) for k in range(6000)]
    names = {name_of(subject) for subject in subjects}
    assert not names & HELD_OUT
    assert {family_of(subject) for subject in subjects} == set(FAMILIES)
    single = {word for name in names for word in name.split()}
    assert {word for name in HELD_OUT for word in name.split()} <= single


def test_class_lists_are_sorted_distinct_and_fit_the_context():
    bpe = tokenizer()
    for name in datasets.DATASETS:
        dataset = datasets.load(name, Path("unused"))
        names = dataset.class_names
        assert list(names) == sorted(set(names))
        assert 24 <= len(names) <= 32 and len(names) % 2 == 0
        bpe([dataset.template.format(text) for text in names])
        if name not in SIX:
            shapes = datasets.load("shapes", Path("unused"))
            assert names == shapes.class_names
            assert dataset.train == dataset.val == () and len(dataset.test) == len(shapes.test)
    assert len(HELD_OUT) == sum(len(subjects) for subjects in CLASSES.values())


def test_items_are_unique_safe_and_complete():
    dataset = datasets.load("critters", Path("unused"))
    items = [*dataset.train, *dataset.val, *dataset.test]
    paths = {item.path for item in items}
    assert len(paths) == len(items) == 24 * (32 + 16 + 100)
    assert all(path.isascii() and not set(path) & set(' \\:*?"<>|') for path in paths)
    assert dataset.test[101].path.startswith("test/01-") and dataset.test[101].label == 1
    assert (
        len({datasets.load(name, Path("unused")).fingerprint for name in datasets.DATASETS}) == 10
    )


def test_unknown_names_and_paths_say_what_is_there(tmp_path, small_splits):
    with pytest.raises(ValueError, match=r"one of shapes, critters.*'animals'"):
        datasets.load("animals", tmp_path)
    reader = datasets.load("land", tmp_path).reader
    for path in ("test/00-wrong_name/000.png", "test/99-x/000.png", "../x.png", "dev/00-x/000.png"):
        with pytest.raises(ValueError, match="is not an image of mosaic/land"):
            reader.read(path)


def test_reader_draws_once_survives_damage_and_travels(tmp_path, small_splits):
    dataset = datasets.load("actions", tmp_path)
    item = dataset.test[5]
    picture = dataset.reader.read(item.path)
    assert isinstance(picture, Image.Image) and picture.mode == "RGB" and picture.size == (48, 48)
    (cache,) = tmp_path.iterdir()
    expected = draw_image(
        "actions", "test", CLASSES["actions"][2], 1, datasets.SPECIFICATIONS["actions"].conditions
    )
    assert np.array_equal(np.asarray(picture), expected)
    travelled = pickle.loads(pickle.dumps(dataset.reader))
    stamp = cache.stat().st_mtime_ns
    assert np.array_equal(np.asarray(travelled.read(item.path)), expected)
    assert cache.stat().st_mtime_ns == stamp
    cache.write_bytes(cache.read_bytes()[:1000])
    again = datasets.load("actions", tmp_path)
    assert np.array_equal(np.asarray(again.reader.read(item.path)), expected)
    assert [path.name for path in tmp_path.iterdir()] == [cache.name]


def test_readers_that_start_together_agree(tmp_path, small_splits):
    readers = [datasets.load("vehicles", tmp_path).reader for _ in range(4)]
    path = datasets.load("vehicles", tmp_path).test[9].path
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda reader: reader.read(path).tobytes(), readers))
    assert len(set(pictures)) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_every_item_reads_the_picture_of_its_class(tmp_path, small_splits):
    dataset = datasets.load("textures", tmp_path)
    conditions = datasets.SPECIFICATIONS["textures"].conditions
    for item in (*dataset.train[::7], *dataset.val[::7], *dataset.test[::7]):
        split, _, file = item.path.split("/")
        subject = CLASSES["textures"][item.label]
        expected = draw_image("textures", split, subject, int(file[:3]), conditions)
        assert np.array_equal(np.asarray(dataset.reader.read(item.path)), expected)


def test_captions_name_their_subject_and_fit(tmp_path):
    bpe = tokenizer()
    lengths = []
    for k in range(300):
        rng = image_generator("captions", k)
        subject = sample_pretraining_subject(rng)
        _, look = render_sample(subject, CONDITIONS, rng)
        caption = write_caption(subject, look, rng, detailed=True)
        lengths.append(len(bpe.encode(caption)) + 2)
        assert caption == caption.lower() and "  " not in caption
    assert np.percentile(lengths, 98) <= CONTEXT_LENGTH


def load_model(path=WEIGHTS_PATH):
    """The open_clip model with weights of a file, as float32."""
    model = build_open_clip(MODEL_CONFIG)
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval()


def test_shipped_weights_are_small_and_load():
    assert WEIGHTS_PATH.stat().st_size < 8_000_000
    clip = load_clip("mosaic")
    assert not clip.training and not any(p.requires_grad for p in clip.parameters())
    tensors = list(load_model().state_dict().values())
    assert all(v.dtype == torch.float32 and bool(v.isfinite().all()) for v in tensors)


def test_missing_weights_are_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(core.mosaic, "WEIGHTS_PATH", tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="pretrain"):
        load_clip("mosaic")


def test_zero_shot_is_above_chance_and_below_the_ceiling(tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(datasets, "PER_CLASS", {"train": 0, "val": 0, "test": 12})
    accuracy = zero_shot(load_model(), datasets.load("vehicles", tmp_path))
    assert 0.3 < accuracy["base"] < 0.93
    assert 0.3 < accuracy["new"] < 0.93
    assert 0.15 < accuracy["all"] <= max(accuracy["base"], accuracy["new"])


def test_weights_survive_a_round_trip_in_half_precision(tmp_path):
    model = load_model()
    save_weights(model, tmp_path / "copy.safetensors")
    again = load_model(tmp_path / "copy.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["copy.safetensors"]


def test_cut_text_equals_whole_text(one_thread):
    torch.manual_seed(0)
    model = build_open_clip(TINY).eval()
    ids = tokenizer()(["snow", "a photo of a red car with flag.", "striped thing"])
    with torch.no_grad():
        assert torch.allclose(encode_cut_text(model, ids), model.encode_text(ids), atol=1e-5)


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    draw_corpus(folder, num_images=480, seed=0)
    return folder


def _pretrain(folder: Path, corpus_dir: Path, **changes):
    folder.mkdir(exist_ok=True)
    if not (folder / "corpus").exists():
        (folder / "corpus").symlink_to(corpus_dir)
    options = {
        "steps": 4,
        "num_images": 480,
        "num_validation": 32,
        "batch_size": 16,
        "warmup": 2,
        "save_every": 2,
        "model_config": TINY,
        "zero_shot": False,
    }
    return pretrain(folder, build_open_clip, **{**options, **changes})


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path, corpus_dir, one_thread):
    whole = _pretrain(tmp_path / "whole", corpus_dir)

    def stop(step: int, steps: int, values: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _pretrain(tmp_path / "cut", corpus_dir, progress=stop)
    resumed = _pretrain(tmp_path / "cut", corpus_dir)
    assert resumed["sha256"] == whole["sha256"]
    assert [point["loss"] for point in resumed["curve"]] == [
        point["loss"] for point in whole["curve"]
    ]
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {
        "corpus",
        "state.pt",
        "mosaic_clip.safetensors",
        "report.json",
    }
    with pytest.raises(ValueError, match="another recipe"):
        _pretrain(tmp_path / "cut", corpus_dir, lr=1e-3)


def test_a_seed_changes_the_weights_and_bad_sizes_are_refused(tmp_path, corpus_dir):
    with pytest.raises(ValueError, match="num_images must be at least"):
        _pretrain(tmp_path / "bad", corpus_dir, num_images=100)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        _pretrain(tmp_path / "bad", corpus_dir, steps=0)


def test_batches_are_hard_and_leave_validation_alone(corpus_dir):
    corpus = draw_corpus(corpus_dir, num_images=480, seed=0)
    sampler = BatchSampler(corpus, seed=0, batch_size=64, first=32)
    kinds = set()
    for step in range(40):
        rows, columns = sampler(step)
        again, _ = sampler(step)
        assert np.array_equal(rows, again) and rows.shape == columns.shape == (64,)
        assert rows.min() >= 32
        families = set(corpus.family[rows].tolist())
        buckets = {(corpus.family[row], corpus.bucket[row]) for row in rows}
        kinds.add("mixed" if len(families) > 2 else "close" if len(buckets) <= 6 else "two")
    assert kinds == {"mixed", "two", "close"}


def test_contact_sheet_is_written(tmp_path):
    datasets.contact_sheet(tmp_path / "docs" / "sheet.png", columns=2)
    with Image.open(tmp_path / "docs" / "sheet.png") as sheet:
        assert sheet.mode == "RGB" and sheet.height > 500


@pytest.mark.parametrize("how", ["a flipped byte", "cut", "no checksum", "empty"])
def test_a_damaged_cache_of_images_is_drawn_again_with_a_note(small_mosaic, tmp_path, caplog, how):
    whole = datasets.load("shapes", tmp_path).reader.pixels().copy()
    (path,) = tmp_path.glob("*.npy")
    data = bytearray(path.read_bytes())
    if how == "a flipped byte":
        data[len(data) // 2] ^= 1
    new = {"cut": data[:-100], "no checksum": data[:-32], "empty": b""}.get(how, data)
    path.write_bytes(bytes(new))
    found = datasets.load("shapes", tmp_path).reader.pixels()
    assert (found == whole).all()
    assert "its images are drawn again" in caplog.text
    caplog.clear()
    assert (datasets.load("shapes", tmp_path).reader.pixels() == whole).all()
    assert not caplog.text


def test_images_that_cannot_be_kept_stay_in_memory(small_mosaic, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    found = datasets.load("shapes", tmp_path / "cache").reader.pixels()
    assert found.shape[1:] == (48, 48, 3) and found.any()
    assert "images are not cached" in caplog.text

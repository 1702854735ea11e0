"""The loaders as published: which images an epoch drops, and how augmented views are made."""

import pytest
import torch

from core.clip.features import FeatureStore
from core.data.catalog import load_dataset
from core.data.fewshot import few_shot
from core.data.transforms import TrainTransform
from core.seeding import Seeds
from core.train.batches import FeatureSource, FreshViewSource, PixelSource
from experiments.configs import config_path
from experiments.run.runtime import Runtime
from experiments.run.standalone import evaluate_run, train_one
from tests.helpers.tiny_clip import shared_tiny_clip

CPU = torch.device("cpu")
SEEDS = Seeds(1).at("batches")


@pytest.fixture(scope="module")
def vehicles(small_mosaic):
    return load_dataset("mosaic/vehicles", root=None, cache_dir=small_mosaic)


@pytest.fixture(scope="module")
def sources(small_mosaic):
    """The three kinds of source, on a tiny CLIP."""
    clip = shared_tiny_clip()
    store = FeatureStore(small_mosaic / "tiny-features", clip)
    pixels = PixelSource(clip, CPU, torch.float32, crop_scale=(0.5, 1.0))
    fresh = FreshViewSource(store, pixels)
    return {"features": FeatureSource(store, CPU, torch.float32), "pixels": pixels, "fresh": fresh}


def batches_of(source, dataset, *, batch_size=3, num_views=0, **options):
    return source.training(
        dataset,
        need=frozenset({"pooled"}),
        num_views=num_views,
        batch_size=batch_size,
        **options,
    )


@pytest.mark.parametrize("kind", ["features", "pixels", "fresh"])
@pytest.mark.parametrize(
    ("num_images", "dropped", "kept"),
    [(7, [3, 3], [3, 3, 1]), (6, [3, 3], [3, 3]), (2, [2], [2])],
)
def test_a_short_last_batch_is_dropped_or_kept(sources, vehicles, kind, num_images, dropped, kept):
    dataset = vehicles.with_splits(train=vehicles.train[:num_images], val=())
    for drop_last, sizes in ((True, dropped), (False, kept)):
        made = batches_of(sources[kind], dataset, drop_last=drop_last)
        epoch = list(made.epoch(1, SEEDS))
        assert [len(batch) for batch in epoch] == sizes and len(made) == len(sizes)
        shown = torch.cat([batch.index for batch in made.every_image(SEEDS)])
        assert sorted(shown.tolist()) == list(range(num_images))
    assert batches_of(sources[kind], dataset).drop_last  # the published default


def test_views_are_fresh_in_every_epoch_and_scores_are_on_cached_features(sources, vehicles):
    dataset = few_shot(vehicles, shots=1, seed=1)
    made = batches_of(sources["fresh"], dataset, num_views=1)
    first, again, second = (next(iter(made.epoch(n, SEEDS))) for n in (1, 1, 2))
    assert torch.equal(first.pixels, again.pixels)
    at = {int(place): row for row, place in enumerate(first.index)}
    for batch in made.epoch(2, SEEDS):
        for row, place in enumerate(batch.index.tolist()):
            if place in at:
                assert not torch.equal(batch.pixels[row], first.pixels[at[place]])
    plain = next(iter(batches_of(sources["features"], dataset).epoch(1, SEEDS)))
    assert torch.equal(plain.index, first.index)  # the order is the same with and without
    assert second.features is None
    scored = next(iter(sources["fresh"].evaluation(dataset, dataset.test, 8)))
    assert scored.pixels is None and len(scored) == 8


def test_the_crop_is_the_one_asked_for(sources, vehicles):
    clip = shared_tiny_clip()
    dataset = few_shot(vehicles, shots=1, seed=1)
    assert sources["pixels"].augmentation.id == TrainTransform(clip.spec, (0.5, 1.0)).id
    whole = PixelSource(clip, CPU, torch.float32, crop_scale=(1.0, 1.0))
    published = PixelSource(clip, CPU, torch.float32)
    assert published.augmentation.id == TrainTransform(clip.spec).id
    seen = [
        next(iter(batches_of(s, dataset, num_views=1).epoch(1, SEEDS))).pixels
        for s in (whole, published, sources["pixels"])
    ]
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@pytest.fixture
def learned(small_mosaic, tmp_path):
    """Trains two epochs of CoOp; gives the folder, its weights and the number of images seen."""

    def train(name, *overrides):
        chosen = ["experiment.dataset=mosaic/vehicles", "experiment.epochs=2",
                  "experiment.shots=1", "experiment.batch_size=5", *overrides]  # fmt: skip
        place = Runtime(cache_dir=small_mosaic)
        folder, _ = train_one(
            config_path("coop"), chosen, tmp_path / name, tmp_path, place,
            on_progress=lambda epoch: None,
        )  # fmt: skip
        return folder, (folder / "weights.safetensors").read_bytes()

    return train


def test_the_settings_reach_training(learned, small_mosaic):
    _, plain = learned("plain")
    fixed = ("experiment.num_views=1",)
    runs = {
        "plain": plain,
        "kept": learned("kept", "experiment.drop_last=False")[1],
        "fixed": learned("fixed", *fixed)[1],
        "cropped": learned("cropped", *fixed, "experiment.crop_scale=(0.9, 1.0)")[1],
        "fresh": learned("fresh", *fixed, "experiment.fresh_views=True")[1],
    }
    assert len(set(runs.values())) == len(runs)
    folder, fresh = learned("again", *fixed, "experiment.fresh_views=True")
    assert fresh == runs["fresh"]
    assert len(evaluate_run(folder, "", "", Runtime(cache_dir=small_mosaic))) == 2

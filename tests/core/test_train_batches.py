"""The loaders as published: which images an epoch drops, and how augmented views are made."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from core.clip.features import FeatureStore
from core.data.catalog import load_dataset
from core.data.dataset import Item
from core.data.fewshot import few_shot
from core.data.transforms import TrainTransform
from core.seeding import Seeds
from core.train.batches import FeatureSource, FreshViewSource, PixelSource
from core.train.frozen_passes import FrozenPasses
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
    first, again = (next(iter(made.epoch(1, SEEDS))) for _ in range(2))
    assert torch.equal(first.features.pooled, again.features.pooled)
    at = {int(place): row for row, place in enumerate(first.index)}
    for batch in made.epoch(2, SEEDS):
        assert batch.pixels is None and batch.positions == tuple(batch.index.tolist())
        for row, place in enumerate(batch.index.tolist()):
            if place in at:
                seen = (batch.features.pooled[row], first.features.pooled[at[place]])
                assert not torch.equal(*seen)
    plain = next(iter(batches_of(sources["features"], dataset).epoch(1, SEEDS)))
    assert torch.equal(plain.index, first.index)  # the order is the same with and without
    scored = next(iter(sources["fresh"].evaluation(dataset, dataset.test, 8)))
    assert scored.pixels is None and len(scored) == 8


def test_fresh_views_are_encoded_as_the_method_would(sources, vehicles):
    """The frozen tower on the pixels that a method with pixels sees, bit for bit, with every field
    that is needed and for every view.
    """
    dataset, need = few_shot(vehicles, shots=1, seed=1), frozenset({"local", "attention"})
    fresh, pixels = (
        sources[kind].training(dataset, need=need, num_views=1, batch_size=3, views_per_image=2)
        for kind in ("fresh", "pixels")
    )
    clip = shared_tiny_clip()
    passes = [("epoch", (made.epoch(1, SEEDS) for made in (fresh, pixels)))]
    passes += [("every image", (made.every_image(SEEDS) for made in (fresh, pixels)))]
    for _, both in passes:
        for given, seen in zip(*both, strict=True):
            assert torch.equal(given.index, seen.index)
            for one, other in zip((given, *given.views), (seen, *seen.views), strict=True):
                expected = clip.encode_image(other.pixels, need=need)
                assert one.pixels is None and not one.features.pooled.requires_grad
                for field in ("pooled", "local", "attention"):
                    assert torch.equal(getattr(one.features, field), getattr(expected, field))


def test_the_precision_of_the_run_rounds_fresh_features_but_not_what_is_learned_before(vehicles):
    clip = shared_tiny_clip()
    mixed = FrozenPasses(clip, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    pixels = PixelSource(clip, CPU, torch.float32, frozen=mixed)
    dataset = few_shot(vehicles, shots=1, seed=1)
    made = batches_of(FreshViewSource(None, pixels), dataset, num_views=1)
    beside = batches_of(pixels, dataset, num_views=1, reads_frozen=frozenset({"training"}))
    seen = batches_of(pixels, dataset, num_views=1)
    for batches in (made, beside):
        for one, plain in zip(batches.epoch(1, SEEDS), seen.epoch(1, SEEDS), strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rounded = clip.encode_image(plain.pixels).pooled
            assert torch.equal(one.features.pooled, rounded)
        for one, plain in zip(batches.every_image(SEEDS), seen.every_image(SEEDS), strict=True):
            assert torch.equal(one.features.pooled, clip.encode_image(plain.pixels).pooled)


def counted_passes(monkeypatch):
    """The number of images of every pass of the tiny image tower."""
    clip, passes = shared_tiny_clip(), []
    encode = type(clip).encode_image

    def counting(self, pixels, *rest, **options):
        passes.append(len(pixels))
        return encode(self, pixels, *rest, **options)

    monkeypatch.setattr(type(clip), "encode_image", counting)
    return passes


def test_frozen_features_beside_pixels_come_from_the_store_where_views_are_fixed(
    vehicles, tmp_path, monkeypatch
):
    clip = shared_tiny_clip()
    stored = FrozenPasses(clip, store=FeatureStore(tmp_path / "features", clip))
    source = PixelSource(clip, CPU, torch.float32, frozen=stored)
    dataset, reads = few_shot(vehicles, shots=2, seed=1), frozenset({"training", "evaluation"})
    passes = counted_passes(monkeypatch)
    made = batches_of(source, dataset, reads_frozen=reads)
    epochs = [batch for epoch in (1, 2) for batch in made.epoch(epoch, SEEDS)]
    scored = list(source.evaluation(dataset, dataset.test[:9], 4, reads_frozen=reads))
    for batch in [*made.epoch(3, SEEDS), *made.every_image(SEEDS)]:
        assert batch.features is not None
    assert len(passes) == 2  # the training images, the test images
    again = PixelSource(
        clip, CPU, torch.float32,
        frozen=FrozenPasses(clip, store=FeatureStore(tmp_path / "features", clip)),
    )  # fmt: skip
    batches_of(again, dataset, reads_frozen=reads)
    assert len(passes) == 2  # another run of the study
    for batch in (*epochs, *scored):
        torch.testing.assert_close(batch.features.pooled, clip.encode_image(batch.pixels).pooled)


def test_frozen_features_beside_fresh_pixels_are_computed_once_a_batch_where_they_are_read(
    vehicles, monkeypatch
):
    source = PixelSource(shared_tiny_clip(), CPU, torch.float32)
    dataset = few_shot(vehicles, shots=1, seed=1)
    passes = counted_passes(monkeypatch)
    for reads, number in (((), 0), (("training",), 1), (("views",), 1), (("training", "views"), 2)):
        made = batches_of(
            source, dataset, num_views=1, views_per_image=2, reads_frozen=frozenset(reads)
        )
        passes.clear()
        batch = next(iter(made.epoch(1, SEEDS)))
        assert len(passes) == number
        (view,) = batch.views
        for use, one in (("training", batch), ("views", view)):
            assert (one.features is not None) == (use in reads)
            if one.features is not None:
                known = shared_tiny_clip().encode_image(one.pixels).pooled
                assert torch.equal(one.features.pooled, known)


def test_fixed_views_of_pixels_are_those_of_cached_features(vehicles, tmp_path, monkeypatch):
    """The same views of the same images in the same order, and their frozen features computed once
    for each fixed view, also of a batch that compares two of them.
    """
    clip = shared_tiny_clip()
    store = FeatureStore(tmp_path / "features", clip)
    pixels = PixelSource(clip, CPU, torch.float32, frozen=FrozenPasses(clip, store=store))
    dataset = few_shot(vehicles, shots=1, seed=1)
    options = {"num_views": 3, "batch_size": 4, "views_per_image": 2}
    cached = batches_of(FeatureSource(store, CPU, torch.float32), dataset, **options)
    reads = frozenset({"training", "views"})
    passes = counted_passes(monkeypatch)
    made = batches_of(pixels, dataset, fixed_views=True, reads_frozen=reads, **options)
    drawn = [(e, n, batch) for e in (1, 2, 3) for n, batch in enumerate(made.epoch(e, SEEDS))]
    assert not passes
    seen = {}
    for epoch, step, batch in drawn:
        other = list(cached.epoch(epoch, SEEDS))[step]
        assert torch.equal(batch.index, other.index) and len(batch.views) == 1
        for one, expected in zip((batch, *batch.views), (other, *other.views), strict=True):
            assert torch.equal(one.features.pooled, expected.features.pooled)
            known = clip.encode_image(one.pixels).pooled
            torch.testing.assert_close(one.features.pooled, known)
            places = [place % len(dataset.train) for place in one.positions]
            assert places == one.index.tolist()
            for place, row in zip(one.positions, one.pixels, strict=True):
                assert torch.equal(seen.setdefault(place, row), row)
    assert len({place // len(dataset.train) for place in seen}) == 3


class WatchedReader:
    """Another reader that notes what is read, and fails at some paths."""

    def __init__(self, reader, broken=()):
        self.reader, self.broken, self.paths = reader, broken, []

    def read(self, path):
        self.paths.append(path)
        if path in self.broken:
            raise ValueError(f"image {path} cannot be read")
        return self.reader.read(path)


@pytest.mark.parametrize("cores", [1, 3])
def test_the_next_batch_is_decoded_while_a_step_runs(sources, vehicles, monkeypatch, cores):
    """With cores for it; every image once, in order, with the same numbers."""
    monkeypatch.setattr("core.data.pixels.share_of_cores", lambda: cores)
    plain = few_shot(vehicles, shots=1, seed=1)
    reader = WatchedReader(plain.reader)
    dataset = replace(plain, reader=reader)
    made = batches_of(sources["pixels"], dataset, num_views=1, batch_size=4)
    expected = [made.take(index, 1, SEEDS) for index in _order(len(dataset.train)).split(4)]
    reader.paths.clear()
    epoch = made.epoch(1, SEEDS)
    for step in range(len(made)):
        batch = next(epoch)
        assert torch.equal(batch.pixels, expected[step].pixels)
        if cores == 1:
            assert len(reader.paths) == 4 * (step + 1)
        else:
            _wait_for(lambda: len(reader.paths) == min(4 * (step + 2), 4 * len(made)))  # noqa: B023
    assert next(epoch, None) is None
    assert len(reader.paths) == len(set(reader.paths)) == 4 * len(made)


@pytest.mark.parametrize("kind", ["pixels", "fresh"])
@pytest.mark.parametrize("cores", [1, 3])
def test_the_first_batches_of_the_next_epoch_are_decoded_before_it(
    sources, vehicles, monkeypatch, cores, kind
):
    """Every image once, with the numbers of an epoch that nobody has begun; what is begun and not
    used, as before an early stop, changes nothing.
    """
    monkeypatch.setattr("core.data.pixels.share_of_cores", lambda: cores)
    plain = few_shot(vehicles, shots=1, seed=1)
    reader = WatchedReader(plain.reader)
    dataset = replace(plain, reader=reader)
    made = batches_of(sources[kind], dataset, num_views=1, batch_size=4)
    expected = {n: list(made.epoch(n, SEEDS)) for n in (1, 2, 3)}
    reader.paths.clear()
    made.begin(3, SEEDS)
    for number in (1, 2):
        epoch = made.epoch(number, SEEDS)
        for step, wanted in enumerate(expected[number], 1):
            batch = next(epoch)
            assert torch.equal(batch.index, wanted.index)
            for one, other in ((batch, wanted), (batch.features, wanted.features)):
                for field in ("pixels", "pooled"):
                    if getattr(other, field, None) is not None:
                        assert torch.equal(getattr(one, field), getattr(other, field))
            if number == 1 and step == len(made):
                made.begin(2, SEEDS)
                ahead = 0 if cores == 1 else 2 * 4 + 2 * 4
                _wait_for(lambda: len(reader.paths) == 4 * len(made) + ahead)  # noqa: B023
    unused = 0 if cores == 1 else 2 * 4
    assert len(reader.paths) == 2 * 4 * len(made) + unused


@pytest.mark.parametrize(("batch_size", "ahead"), [(1, 6), (2, 6), (4, 8), (5, 10), (8, 8)])
def test_small_batches_are_decoded_several_ahead_so_that_every_thread_has_work(
    sources, vehicles, monkeypatch, batch_size, ahead
):
    """Six threads: a batch of one image keeps none of the others waiting; a large one is ahead by
    one batch, as ever, and images that take too much memory by none in an evaluation.
    """
    monkeypatch.setattr("core.data.pixels.share_of_cores", lambda: 6)
    plain = few_shot(vehicles, shots=2, seed=1)
    reader = WatchedReader(plain.reader)
    dataset = replace(plain, reader=reader)
    made = batches_of(sources["pixels"], dataset, num_views=1, batch_size=batch_size)
    for begun in (
        made.epoch(1, SEEDS),
        sources["pixels"].evaluation(dataset, dataset.train, batch_size),
    ):
        reader.paths.clear()
        for step in range(2):
            next(begun)
            _wait_for(lambda: len(reader.paths) == batch_size * (step + 1) + ahead)  # noqa: B023
        begun.close()
    monkeypatch.setattr("core.data.pixels.AHEAD_BYTES", 0)
    for least, begun in (
        (1, made.epoch(1, SEEDS)),
        (0, sources["pixels"].evaluation(dataset, dataset.train, batch_size)),
    ):
        reader.paths.clear()
        next(begun)
        _wait_for(lambda: len(reader.paths) == batch_size * (1 + least))  # noqa: B023
        begun.close()


def _order(number):
    return torch.randperm(number, generator=SEEDS.generator("order", 1))


def _wait_for(reached):
    for _ in range(1000):
        if reached():
            return
        time.sleep(0.01)
    assert reached()


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("augment", [0, 1])
def test_an_image_that_cannot_be_read_fails_in_its_own_step(
    sources, vehicles, monkeypatch, cores, augment
):
    monkeypatch.setattr("core.data.pixels.share_of_cores", lambda: cores)
    dataset = few_shot(vehicles, shots=1, seed=1)
    bad = dataset.train[int(_order(len(dataset.train))[9])].path
    broken = replace(dataset, reader=WatchedReader(dataset.reader, {bad}))
    epoch = batches_of(sources["pixels"], broken, num_views=augment, batch_size=4).epoch(1, SEEDS)
    assert [len(next(epoch)) for _ in range(2)] == [4, 4]
    with pytest.raises(ValueError, match="cannot be read"):
        next(epoch)
    scored = sources["pixels"].evaluation(broken, [*dataset.train[:4], Item(bad, 0)], 2)
    if bad not in {item.path for item in dataset.train[:4]}:
        assert [len(next(scored)) for _ in range(2)] == [2, 2]
        with pytest.raises(ValueError, match="cannot be read"):
            next(scored)


def test_one_pool_serves_all_batches_of_a_process(sources, vehicles, monkeypatch):
    monkeypatch.setattr("core.data.pixels.share_of_cores", lambda: 2)
    dataset = few_shot(vehicles, shots=1, seed=1)
    names = set()
    read = type(dataset.reader).read

    def noting(self, path):
        names.add(threading.current_thread().name)
        return read(self, path)

    monkeypatch.setattr(type(dataset.reader), "read", noting)
    for epoch in (1, 2):
        list(batches_of(sources["pixels"], dataset, batch_size=2).epoch(epoch, SEEDS))
        list(sources["pixels"].evaluation(dataset, dataset.train, 3))
    assert len(names) <= 2 and all(name.startswith("decode") for name in names)


def test_rows_of_a_batch_are_its_images_with_all_that_is_known_of_them(sources, vehicles):
    dataset = few_shot(vehicles, shots=1, seed=1)
    reads = frozenset({"training", "views"})
    made = batches_of(
        sources["pixels"], dataset, batch_size=4, num_views=1, views_per_image=2, reads_frozen=reads
    )
    batch = next(iter(made.epoch(1, SEEDS)))
    some = batch.rows([2, 0])
    for one, whole in ((some, batch), (some.views[0], batch.views[0])):
        assert torch.equal(one.pixels, whole.pixels[[2, 0]])
        assert torch.equal(one.features.pooled, whole.features.pooled[[2, 0]])
        assert torch.equal(one.labels, whole.labels[[2, 0]])
        assert one.positions == tuple(one.index.tolist()) == tuple(whole.index[[2, 0]].tolist())


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

"""Transforms against torchvision on the same random numbers, and the decoding pool."""

import numpy as np
import pytest
import torch
from PIL import Image

import core.clip.torchvision_ops  # noqa: F401  (before torchvision)
from core.data.dataset import Dataset, Item
from core.data.pixels import iter_pixels, load_pixels
from core.data.transforms import EvalTransform, TrainTransform
from core.types import FeatureSpec

torchvision = pytest.importorskip("torchvision.transforms")

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SIZES = [(48, 48), (47, 48), (48, 90), (101, 60), (60, 101), (333, 41), (8, 8), (48, 49), (1, 5)]


def spec(*size: int) -> FeatureSpec:
    return FeatureSpec(
        joint_width=8, vision_width=8, vision_depth=1, text_width=8, text_depth=1, context_length=8,
        image_size=size, grid=(3, 3), image_mean=MEAN, image_std=STD, fingerprint="f",
    )  # fmt: skip


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(noise.astype(np.uint8))


def reference(*steps):
    tail = [torchvision.ToTensor(), torchvision.Normalize(MEAN, STD)]
    return torchvision.Compose([*steps, *tail])


BICUBIC = torchvision.InterpolationMode.BICUBIC


@pytest.mark.parametrize("size", SIZES)
def test_eval_equals_torchvision_bitwise(size):
    theirs = reference(torchvision.Resize(48, interpolation=BICUBIC), torchvision.CenterCrop(48))(
        picture(*size)
    )
    ours = EvalTransform(spec(48, 48))(picture(*size))
    assert ours.dtype == torch.float32 and ours.shape == (3, 48, 48) and ours.is_contiguous()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize("size", SIZES[:-1])
def test_train_equals_torchvision_on_the_same_random_numbers(size, scale):
    """Eight pictures in a row from one stream: the generator is also left at the same place."""
    image, seed = picture(*size), 1000 + size[0]
    theirs = reference(
        torchvision.RandomResizedCrop(48, scale=scale, interpolation=BICUBIC),
        torchvision.RandomHorizontalFlip(),
    )
    generator = torch.Generator().manual_seed(seed)
    transform = TrainTransform(spec(48, 48), scale=scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = [theirs(image) for _ in range(8)]
        state = torch.random.get_rng_state()
    before = torch.random.get_rng_state()
    for reference_image in expected:
        assert torch.equal(transform(image, generator), reference_image)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.random.get_rng_state(), before)  # the global stream is not touched


def test_a_picture_of_the_right_size_is_not_resampled():
    image = picture(48, 48)
    pixels = EvalTransform(spec(48, 48))(image)
    restored = pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    assert torch.equal((restored * 255).round().to(torch.uint8), expected)


def test_oblong_backbones_are_covered_and_cropped():
    pixels = EvalTransform(spec(40, 80))(picture(50, 100))
    assert pixels.shape == (3, 40, 80)
    assert EvalTransform(spec(40, 80))(picture(300, 50)).shape == (3, 40, 80)


def test_ids_tell_transforms_apart():
    made = [
        EvalTransform(spec(48, 48)), EvalTransform(spec(64, 64)), TrainTransform(spec(48, 48)),
        TrainTransform(spec(48, 48), scale=(0.5, 1.0)),
    ]  # fmt: skip
    assert len({transform.id for transform in made}) == 4
    assert EvalTransform(spec(48, 48)).id == made[0].id


def test_transform_errors():
    with pytest.raises(
        ValueError, match=r"crop scale must be 0 < low <= high <= 1 .* got \(0, 1\)"
    ):
        TrainTransform(spec(48, 48), scale=(0, 1))
    with pytest.raises(ValueError, match=r"pass a torch\.Generator"):
        TrainTransform(spec(48, 48))(picture(48, 48))


class PictureReader:
    def read(self, path: str) -> Image.Image:
        if path == "broken":
            raise ValueError("image broken cannot be read")
        return picture(20 + int(path), 30)


def some(count: int) -> tuple[Dataset, list[Item]]:
    items = [Item(str(n), 0) for n in range(count)]
    dataset = Dataset(
        name="t/t", class_names=("a",), template="{}", train=tuple(items), val=(), test=(),
        reader=PictureReader(),
    )  # fmt: skip
    return dataset, items


@pytest.mark.parametrize("threads", [1, 3])
def test_pool_keeps_order_seeds_and_batches(threads):
    dataset, items = some(21)
    transform, seeds = TrainTransform(spec(16, 16)), list(range(100, 121))
    expected = torch.stack([
        transform(picture(20 + n, 30), torch.Generator().manual_seed(100 + n)) for n in range(21)
    ])  # fmt: skip
    pixels = load_pixels(dataset, items, transform, seeds=seeds, num_threads=threads)
    assert torch.equal(pixels, expected)
    batches = list(
        iter_pixels(dataset, items, transform, batch_size=8, seeds=seeds, num_threads=threads)
    )
    assert [len(batch) for batch in batches] == [8, 8, 5]
    assert torch.equal(torch.cat(batches), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_broken_picture_stops_the_pool(threads):
    dataset, items = some(30)
    items[20] = Item("broken", 0)
    with pytest.raises(ValueError, match="image broken cannot be read"):
        load_pixels(dataset, items, EvalTransform(spec(16, 16)), num_threads=threads)


def test_pool_errors():
    dataset, items = some(2)
    transform = EvalTransform(spec(16, 16))
    with pytest.raises(ValueError, match="no items"):
        load_pixels(dataset, [], transform)
    with pytest.raises(ValueError, match="1 seeds for 2 items"):
        load_pixels(dataset, items, transform, seeds=[1])
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        iter_pixels(dataset, items, transform, batch_size=0)
    with pytest.raises(ValueError, match="num_threads must be 1 or more, got 0"):
        load_pixels(dataset, items, transform, num_threads=0)

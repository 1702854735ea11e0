"""Augmentations as parts: torchvision's numbers, a generator of their own, and who may change."""

import inspect
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import core.clip.torchvision_ops  # noqa: F401  (before torchvision)
import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import (
    Probability,
    config_from_text,
    isolated_registry,
    register,
    registered_classes,
)
from core.data import transforms
from core.data.augmentations import OPERATIONS, ColorJitter, RandAugment
from core.data.transforms import (
    Augmentation,
    EvalTransform,
    NoAugmentation,
    TrainTransform,
    cache_key,
)
from core.types import FeatureSpec
from experiments.run.data_inputs import planned
from experiments.run.run import run
from tests.helpers.paths import ROOT
from tests.helpers.two_step_runs import two_steps

torchvision = pytest.importorskip("torchvision.transforms")

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SPEC = FeatureSpec(
    joint_width=8, vision_width=8, vision_depth=1, text_width=8, text_depth=1, context_length=8,
    image_size=(48, 48), grid=(3, 3), image_mean=MEAN, image_std=STD, fingerprint="f",
)  # fmt: skip
CROP = [
    torchvision.RandomResizedCrop(
        48, scale=(0.5, 1.0), interpolation=torchvision.InterpolationMode.BICUBIC
    ),
    torchvision.RandomHorizontalFlip(),
]
TAIL = [torchvision.ToTensor(), torchvision.Normalize(MEAN, STD)]


def picture(number=0, width=90, height=60):
    """Smooth areas with noise: operations differ on both."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (height, width, 3)) // 4
    pixels[: height // 2] += 120
    pixels[:, width // 3 :, 1] += 60
    return Image.fromarray(pixels.astype(np.uint8))


def agree_with_torchvision(ours, *steps, count=40):
    theirs = torchvision.Compose([*CROP, *steps, *TAIL])
    for number in range(count):
        image = picture(number)
        torch.manual_seed(number)
        expected = theirs(image)
        place = torch.get_rng_state()
        generator = torch.Generator().manual_seed(number)
        assert torch.equal(ours(image, generator), expected), number
        assert torch.equal(generator.get_state(), place)


@pytest.mark.parametrize(
    "strengths",
    [(0.4, 0.4, 0.4, 0.1), (0.8, 0.0, 2.0, 0.5), (0.0, 0.0, 0.0, 0.3), (0.0, 0.0, 0.0, 0.0)],
)
def test_color_jitter_is_torchvisions(strengths):
    names = ("brightness", "contrast", "saturation", "hue")
    ours = ColorJitter(SPEC, (0.5, 1.0), **dict(zip(names, strengths, strict=True)))
    agree_with_torchvision(ours, torchvision.ColorJitter(*strengths))


@pytest.mark.parametrize(("num_ops", "magnitude"), [(2, 9), (1, 0), (3, 30), (14, 17)])
def test_rand_augment_is_torchvisions(num_ops, magnitude):
    ours = RandAugment(SPEC, (0.5, 1.0), num_ops=num_ops, magnitude=magnitude)
    agree_with_torchvision(ours, torchvision.RandAugment(num_ops, magnitude))
    assert len(OPERATIONS) == 14


def test_a_ratio_and_a_flip_of_ones_own():
    theirs = torchvision.Compose(
        [
            torchvision.RandomResizedCrop(
                48,
                scale=(0.5, 1.0),
                ratio=(1.0, 2.0),
                interpolation=torchvision.InterpolationMode.BICUBIC,
            ),
            torchvision.RandomHorizontalFlip(0.9),
            *TAIL,
        ]
    )
    ours = TrainTransform(SPEC, (0.5, 1.0), ratio=(1.0, 2.0), flip=0.9)
    for number in range(20):
        torch.manual_seed(number)
        expected = theirs(picture(number))
        assert torch.equal(ours(picture(number), torch.Generator().manual_seed(number)), expected)
    for wrong in ((2.0, 1.0), (1.0,), (1.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match=r"RandomResizedCropFlip.ratio must be \(low, high\)"):
            TrainTransform(SPEC, ratio=wrong)


def test_no_augmentation_is_the_evaluation_view():
    ours = NoAugmentation(SPEC)
    assert torch.equal(ours(picture(), torch.Generator()), EvalTransform(SPEC)(picture()))


OTHER = {
    "ratio": (1.0, 1.5), "flip": 0.25, "brightness": 0.1, "contrast": 0.2, "saturation": 0.3,
    "hue": 0.2, "num_ops": 1, "magnitude": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    "entry",
    registered_classes("augmentation"),
    ids=[e.name for e in registered_classes("augmentation")],
)
def test_every_augmentation_keeps_the_contract(entry):
    """One generator, the same images; every setting is part of the key of cached features."""
    made = entry.cls(SPEC, (0.5, 1.0))
    images = [made(picture(), torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*images) and images[0].shape == (3, 48, 48)
    assert images[0].dtype == torch.float32
    before = torch.get_rng_state()
    made(picture(), torch.Generator().manual_seed(4))
    assert torch.equal(torch.get_rng_state(), before), "a draw from the process's generator"
    ids = [made.id] + [
        entry.cls(SPEC, (0.5, 1.0), **{name: OTHER[name]}).id for name in entry.parameters
    ]
    assert len(set(ids)) == len(ids)
    assert isinstance(made, Augmentation) and entry.summary


def config(*lines, method="CoOp"):
    keys = {line.partition(" = ")[0] for line in lines}
    text = two_steps(method).splitlines()
    kept = [line for line in text if line.partition(" = ")[0] not in keys]
    return config_from_text("\n".join([*kept, *lines]))


def identity(*lines, **options):
    return config(*lines, **options).identity("experiment")


VIEWS = "experiment.num_views = 2"


def test_the_default_is_the_published_one_and_keeps_its_identity():
    published = "experiment.augmentation = @RandomResizedCropFlip"
    assert identity(VIEWS) == identity(VIEWS, published)
    assert identity(VIEWS) == identity(VIEWS, published, "RandomResizedCropFlip.flip = 0.5")
    others = [
        identity(VIEWS, published, "RandomResizedCropFlip.flip = 0.0"),
        identity(VIEWS, "experiment.augmentation = @ColorJitter"),
        identity(VIEWS, "experiment.augmentation = @RandAugment"),
        identity(VIEWS, "experiment.augmentation = @RandAugment", "RandAugment.magnitude = 5"),
    ]
    assert len({identity(VIEWS), *others}) == 5
    none = "experiment.augmentation = @NoAugmentation"
    assert identity(VIEWS, none) == identity()
    assert identity(VIEWS, none, "experiment.crop_scale = (0.5, 1.0)") == identity()


@pytest.mark.parametrize("name", ["ColorJitter", "RandomResizedCropFlip", "NoAugmentation"])
def test_an_augmentation_without_views_is_refused(name):
    made = config(f"experiment.augmentation = @{name}")
    with pytest.raises(ValueError, match=r"nothing is augmented with experiment\.num_views = 0"):
        made.check_used(["experiment"])
    config(VIEWS, f"experiment.augmentation = @{name}").check_used(["experiment"])
    planned(made)


def test_another_augmentation_reaches_training_and_a_wrong_part_does_not(small_mosaic, tmp_path):
    logs = {}
    for name in ("RandomResizedCropFlip", "ColorJitter", "RandAugment", "NoAugmentation"):
        for fresh in ("False", "True"):
            folder = tmp_path / name / fresh
            folder.mkdir(parents=True)
            views = ("experiment.num_views = 1", f"experiment.fresh_views = {fresh}")
            record = run(
                config(*views, f"experiment.augmentation = @{name}"),
                folder,
                identity="test",
                variant=name,
                factors={},
                cache_dir=small_mosaic,
                data_root=None,
                device="cpu",
                on_progress=lambda epoch: None,
            )
            assert record.status == "finished"
            logs[name, fresh] = (folder / "log.jsonl").read_text()
    assert len(set(logs.values())) >= 7  # what is not augmented is the same either way
    with pytest.raises(ValueError, match="augmentation"):
        config("experiment.augmentation = @EmaCache", VIEWS).check_used(["experiment"])


def test_the_example_of_the_docs_runs():
    text = (ROOT / "docs" / "training.md").read_text()
    (example,) = re.findall(r"```python\n(@register.*?)```", text, re.DOTALL)
    with isolated_registry():
        names = {
            **{"register": register, "Augmentation": Augmentation, "EvalTransform": EvalTransform},
            **{"CROP_SCALE": transforms.CROP_SCALE, "Probability": Probability, "torch": torch},
        }
        exec(example, names)
        made = names["Negative"](SPEC, share=1.0)
        image = picture()
        assert torch.equal(made(image, torch.Generator()), -EvalTransform(SPEC)(image))
        assert "0.25" in names["Negative"](SPEC, share=0.25).id
        config(VIEWS, "experiment.augmentation = @Negative", "Negative.share = 0.5").check_used(
            ["experiment"]
        )


def test_a_plugged_in_augmentation_and_its_source_are_the_key(monkeypatch):
    with isolated_registry():

        @register("augmentation")
        class Inverted(Augmentation):
            """The negative of the evaluation view."""

            @property
            def id(self) -> str:
                return "inverted-1"

            def __call__(
                self, image: Image.Image, generator: torch.Generator | None = None
            ) -> Tensor:
                return -EvalTransform(self.spec)(image)

        plugged = config(VIEWS, "experiment.augmentation = @Inverted")
        plugged.check_used(["experiment"])
        assert plugged.identity("experiment") != identity(VIEWS)
        key = cache_key(Inverted(SPEC))
        assert key.startswith("inverted-1|")
        source = inspect.getsource
        monkeypatch.setattr(transforms.inspect, "getsource", lambda module: source(module) + "#")
        assert cache_key(Inverted(SPEC)) != key
        assert cache_key(TrainTransform(SPEC)) == TrainTransform(SPEC).id

"""Short runs of a preset on the embedded benchmark, for tests of methods."""

from pathlib import Path

import torch

from core.clip.backbone import build_open_clip
from core.clip.frozen import FrozenCLIP
from core.clip.tokenizer import Tokenizer
from core.config import load_config
from core.types import Batch, ClassNames
from experiments.run import Place, run

CONFIGS = Path(__file__).parents[1] / "experiments" / "configs"
GOLDEN = Path(__file__).parent / "golden"
NAMES = ClassNames(names=("cat", "golden_retriever", "hot air balloon", "dragonfly", "tea cup"))
ALL_OFF = (
    "experiment.refiner=@TextRefiner",
    "TextRefiner.alignment=@NoAlignment",
    "TextRefiner.cache=@NoCache",
    "TextRefiner.aggregation=@NoAggregation",
    "TextRefiner.semantic=@NoLoss",
    "TextRefiner.regularization=@NoLoss",
)
TWO_STEPS = (
    "experiment.backbone='mosaic'",
    "experiment.dataset='mosaic/vehicles'",
    "experiment.shots=2",
    "experiment.batch_size=12",
    "experiment.epochs=1",
)


def tiny_clip(dtype=torch.float64, vision_layers=3, text_layers=3):
    """A random CLIP with 16 patches and towers of width 48 and 32."""
    torch.manual_seed(0)
    model = build_open_clip(
        {
            "embed_dim": 32,
            "quick_gelu": True,
            "vision_cfg": {
                "layers": vision_layers,
                "width": 48,
                "head_width": 16,
                "patch_size": 8,
                "image_size": 32,
            },
            "text_cfg": {"width": 32, "heads": 2, "layers": text_layers},
        }
    )
    return FrozenCLIP(model.to(dtype), Tokenizer(77))


def pixel_batch(num_images=6, num_classes=5, seed=1, need=("pooled",)):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        labels=torch.arange(num_images) % num_classes,
        pixels=torch.randn(num_images, 3, 32, 32, generator=generator, dtype=torch.float64),
        need=frozenset(need),
    )


def train(preset, folder, cache_dir, *overrides):
    """The record of two training steps of a preset, and where the run can be read again."""
    config = load_config(CONFIGS / f"{preset}.gin", [*TWO_STEPS, *overrides])
    folder.mkdir(parents=True)
    place = Place(cache_dir=cache_dir)
    record = run(
        config.text(),
        folder,
        identity="test",
        variant=preset,
        factors={},
        cache_dir=cache_dir,
        data_root=None,
        device="cpu",
        on_progress=lambda epoch: None,
    )
    return record, place

"""Short runs of a preset on the embedded benchmark, for tests of methods."""

from dataclasses import replace

import torch

import experiments.run.run
from core.clip.backbone import build_open_clip
from core.clip.frozen import FrozenCLIP
from core.clip.tokenizer import Tokenizer
from core.data.splits import class_subset
from core.types import Batch, ClassNames
from experiments.configs import config_path, read_config_file
from experiments.run.run import assemble, evaluate, reload
from experiments.run.runtime import Runtime

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


def few_test_images(monkeypatch, step=50):
    """Runs score every 50th test image from now on, or another share of them."""
    whole = experiments.run.run.class_subset

    def some(dataset, subset):
        part = whole(dataset, subset)
        return replace(part, test=part.test[::step])

    monkeypatch.setattr(experiments.run.run, "class_subset", some)


def two_steps(preset, *overrides):
    return read_config_file(config_path(preset), [*TWO_STEPS, *overrides])


def run_preset(preset, folder, cache_dir, *overrides):
    """The record of two training steps of a preset."""
    folder.mkdir(parents=True)
    return experiments.run.run.run(
        two_steps(preset, *overrides),
        folder,
        identity="test",
        variant=preset,
        factors={},
        cache_dir=cache_dir,
        data_root=None,
        device="cpu",
        on_progress=lambda epoch: None,
    )


def logits_of(built, num_images=16):
    """Logits of the first test images of the base classes."""
    part = class_subset(built.dataset, "base")
    batches = built.source.evaluation(part, part.test[:num_images], num_images)
    with torch.no_grad():
        return built.model.eval()(next(batches)).logits()


def check_run(preset, folder, cache_dir, *overrides):
    """Trains twice, in a run and by hand; both and what the run saved give the same logits."""
    two_steps(preset, *overrides).check_used(["experiment"])
    record = run_preset(preset, folder, cache_dir, *overrides)
    place = Runtime(cache_dir=cache_dir)
    built = assemble(two_steps(preset, *overrides), place)
    experiments.run.run.train(built, lambda epoch: None)
    expected = logits_of(built)
    built = reload(folder, place)
    assert torch.equal(logits_of(built), expected)
    again = [evaluate(built, built.dataset, subset) for subset in built.scored_subsets()]
    assert [e.correct for e in again] == [e.correct for e in record.evaluations]
    assert torch.isfinite(expected).all()
    return record


def check_off_is_base(base, refined, folder, cache_dir, *overrides):
    """A refiner with every part off changes neither a loss, nor a weight, nor an answer."""
    plain = run_preset(base, folder / "plain", cache_dir, *overrides)
    off = run_preset(refined, folder / "off", cache_dir, *overrides, *ALL_OFF)
    assert [e.correct for e in plain.evaluations] == [e.correct for e in off.evaluations]
    for name in ("log.jsonl", "weights.safetensors"):
        assert (folder / "plain" / name).read_bytes() == (folder / "off" / name).read_bytes()

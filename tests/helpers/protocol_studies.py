"""All four protocols from shipped presets, as one process that can be killed.

``python protocol_studies.py HOME TREES`` runs a small grid a protocol on miniature trees into
HOME/runs, in this process. The backbone has ViT-B/16's shape (12 blocks,
patches of 16, pictures of 224, 77 tokens), narrow towers and random weights; it is made on the
first call. Called again, it does the rest.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

import main as command_line
from core.clip import backbone
from tests.helpers.open_clip_models import open_clip

NAME = "ViT-B-16-narrow"
CLIP = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {
        "layers": 12,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
        "image_size": 224,
    },
    "text_cfg": {"width": 32, "heads": 2, "layers": 12, "context_length": 77, "vocab_size": 49408},
}
SHIFTED = (
    "imagenet-sketch/images",
    "imagenet-adversarial/imagenet-a",
    "imagenet-rendition/imagenet-r",
)
PER_CLASS = 3  # pictures of the shifted sets
VARIANTS = """
grid.seeds = (1,)
grid.baseline = 'CoOp'
grid.variants = {
    'ZeroShot': {'experiment.method': @ZeroShot, 'experiment.refiner': @NullRefiner},
    'CoOp': {'experiment.refiner': @NullRefiner},
    'CoOp+TextRefiner': {},
}
"""
GRIDS = {
    "base_to_new": "grid.datasets = ('dtd',)",
    "cross_dataset": "grid.datasets = ('imagenet',)\nexperiment.targets = ('dtd', 'eurosat')",
    "domain_generalization": "grid.datasets = ('imagenet',)\n"
    "experiment.targets = ('imagenet_sketch', 'imagenet_a', 'imagenet_r')",
    "few_shot": "grid.datasets = ('eurosat',)\ngrid.shots = (1, 2)\n"
    "grid.overrides = ({'shots': (2,), 'set': {'experiment.epochs': 2}},)",
}


def make_clip(folder: Path) -> Path:
    """Tells open_clip of the model and gives a file of random weights for it."""
    config = folder / f"{NAME}.json"
    config.write_text(json.dumps(CLIP))
    open_clip.add_model_config(config)
    weights = folder / "narrow.pt"
    if not weights.exists():
        torch.manual_seed(0)
        torch.save(backbone.build_open_clip(CLIP).state_dict(), weights)
    return weights


def nested_imagenet(trees: Path, home: Path) -> Path:
    """A data root whose miniature ImageNet also has the classes of ImageNet-A and -R."""
    root, copy = home / "data", home / "copy"
    if root.exists():
        return root
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("imagenet", "dtd", "eurosat", *(Path(shifted).parts[0] for shifted in SHIFTED)):
        shutil.copytree(trees / name, copy / name)
    for shifted in SHIFTED:
        for folder in filter(Path.is_dir, (copy / shifted).iterdir()):
            for spare in sorted(folder.iterdir())[PER_CLASS:]:
                spare.unlink()
            for part in ("train", "val"):
                shutil.copytree(
                    folder, copy / "imagenet/images" / part / folder.name, dirs_exist_ok=True
                )
    copy.rename(root)
    return root


def grid_file(protocol: str, home: Path, weights: Path) -> Path:
    """The grid of a protocol, on top of the published preset."""
    path = home / f"{protocol}.gin"
    path.write_text(
        f"include 'published/text_refiner_{protocol}.gin'\n"
        f"experiment.backbone = '{NAME}'\nexperiment.weights = '{weights}'\n"
        "experiment.epochs = 1\nexperiment.shots = 1\nexperiment.batch_size = 4\n"
        "experiment.selection = 'last'\n"
        f"grid.study = '{protocol}'\n{GRIDS[protocol]}\n{VARIANTS}"
    )
    return path


def call(*words: object) -> None:
    """One command of the command line, in this process."""
    before, sys.argv = sys.argv, ["main.py", *map(str, words)]
    try:
        code = command_line.main()
    finally:
        sys.argv = before
    assert code == 0, (words, code)


def run_all(home: Path, trees: Path) -> None:
    """One grid after the other."""
    torch.set_num_threads(1)
    weights, root = make_clip(home), nested_imagenet(trees, home)
    places = ("--runs", home / "runs", "--data-root", root)
    for protocol in GRIDS:
        grid = grid_file(protocol, home, weights)
        call("grid", grid, "--jobs", "0", "--no-track", *places)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), Path(sys.argv[2]))

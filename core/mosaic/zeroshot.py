"""Zero-shot accuracy of the embedded model on the Mosaic datasets, using only open_clip's own
encoders.

Shape letters: N images, C classes, D joint width.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.dataset import Dataset
from core.mosaic import datasets
from core.mosaic.model import ClipModel, normalize, tokenizer
from core.mosaic.reader import MosaicReader


def zero_shot_table(model: ClipModel, cache_dir: Path) -> dict[str, dict[str, float]]:
    """For each dataset the accuracy among base classes, among new classes and among all, as
    fractions.
    """
    return {name: zero_shot(model, datasets.load(name, cache_dir)) for name in datasets.DATASETS}


@torch.no_grad()
def zero_shot(model: ClipModel, dataset: Dataset) -> dict[str, float]:
    """Accuracy on the test images of one Mosaic dataset: ``base`` and ``new`` each among their
    own classes.
    """
    model.eval()
    texts = [dataset.template.format(name) for name in dataset.class_names]
    text_CD = F.normalize(model.encode_text(tokenizer()(texts)), dim=-1)
    image_ND = encode_test_pictures(model, dataset)
    labels = torch.tensor([item.label for item in dataset.test])
    half = (len(texts) + 1) // 2
    logits_NC = image_ND @ text_CD.T
    base, new = labels < half, labels >= half
    return {
        "base": _accuracy(logits_NC[base][:, :half], labels[base]),
        "new": _accuracy(logits_NC[new][:, half:], labels[new] - half),
        "all": _accuracy(logits_NC, labels),
    }


def encode_test_pictures(model: ClipModel, dataset: Dataset) -> Tensor:
    """Unit-norm features ``(N, D)`` of the test images."""
    reader = dataset.reader
    assert isinstance(reader, MosaicReader)
    pixels = torch.from_numpy(reader.pixels()[-len(dataset.test) :].copy())
    features = [model.encode_image(normalize(batch)) for batch in torch.split(pixels, 256)]
    return F.normalize(torch.cat(features), dim=-1)


def _accuracy(logits_NC: Tensor, labels: Tensor) -> float:
    return float((logits_NC.argmax(dim=1) == labels).double().mean())

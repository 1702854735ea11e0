"""Prompt templates: the published ensembles, by name or as given.

"imagenet80" are the 80 templates published with CLIP for ImageNet, and "imagenet7" those of them
that its authors select. Source: Radford et al., ICML 2021, arXiv 2103.00020; CLIP repository,
notebooks/Prompt_Engineering_for_ImageNet.ipynb. "clip60" is the plain template and the first 59
others of the 80, as PromptSRC and PromptKD use them. Source: Khattak et al., ICCV 2023,
arXiv 2307.06948.
"""

from collections.abc import Mapping
from typing import Literal

from core.config import OneSlot, PromptTemplate

EnsembleName = Literal["clip60", "imagenet7", "imagenet80"]
Templates = EnsembleName | tuple[PromptTemplate, ...]
"""An ensemble by name, or templates; no templates mean the dataset's own."""

PLAIN = "a photo of a {}."
IMAGENET_TEMPLATES_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
IMAGENET_TEMPLATES_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
CLIP_TEMPLATES_60 = (PLAIN, *[t for t in IMAGENET_TEMPLATES_80 if t != PLAIN][:59])
ENSEMBLES: Mapping[str, tuple[str, ...]] = {
    "clip60": CLIP_TEMPLATES_60,
    "imagenet7": IMAGENET_TEMPLATES_7,
    "imagenet80": IMAGENET_TEMPLATES_80,
}


def templates_of(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """The templates of an ensemble, or those given. Raises ValueError as ``checked_templates``, and
    for an unknown name.
    """
    if not isinstance(given, str):
        return checked_templates(given)
    if given not in ENSEMBLES:
        raise ValueError(f"the template ensembles are {', '.join(ENSEMBLES)}, got {given!r}")
    return ENSEMBLES[given]


def checked_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates. Raises ValueError for one without exactly one ``{}``, or with other braces."""
    rule = OneSlot()
    for template in templates:
        if not rule.allows(template):
            raise ValueError(f"a template must be text {rule}, got {template!r}")
    return templates

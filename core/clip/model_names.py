"""The usual spellings of CLIP models by other projects, and open_clip's name for each."""

import re
from collections.abc import Iterable

SIZES = {"small": "s", "base": "b", "large": "l", "huge": "h", "giant": "g", "bigg": "bigg"}
# "ViT-L/14@336px", "vit_b16", "openai/clip-vit-base-patch16", "vit_large_patch14_clip_336.openai",
# "siglip-so400m-patch14-384", "EVA02-CLIP-B-16"
SPELLED = re.compile(
    r"(?:vit|(?P<family>siglip2?|eva0\d)(?:[-_ /]?(?:clip|vit))?)[-_ /]?"
    r"(?P<size>small|base|large|huge|giant|bigg|so400m|[sblhg])[-_ /]?(?:patch|p)?[-_ ]?"
    r"(?P<patch>\d\d)(?![\d])(?:[-_ @/]+(?:clip[-_]?)?(?P<image>\d{3})(?!\d))?",
    re.IGNORECASE,
)
RESNET = re.compile(r"(?:rn|resnet)[-_ ]?(?P<depth>50|101)(?P<times>x\d+)?(?!\d)", re.IGNORECASE)


def usual_name(name: str, known: Iterable[str]) -> str | None:
    """Open_clip's name of the model that another spelling means; None where it has none."""
    quick = "-quickgelu" if "quickgelu" in name.lower().replace("-", "").replace("_", "") else ""
    by_lower = {choice.lower(): choice for choice in known}
    spellings = _spellings(name)
    wanted = [*(f"{spelled}{quick}" for spelled in spellings), *spellings]
    return next((by_lower[choice] for choice in wanted if choice in by_lower), None)


def _spellings(name: str) -> list[str]:
    """Open_clip's lower-case names that another spelling may mean, likeliest first."""
    if resnet := RESNET.search(name):
        return [f"rn{resnet['depth']}{(resnet['times'] or '').lower()}"]
    found = SPELLED.search(name)
    if found is None:
        return []
    size = SIZES.get(found["size"].lower(), found["size"].lower())
    family, patch = (found["family"] or "").lower(), found["patch"]
    images = [f"-{found['image']}", ""] if found["image"] else [""]
    stem = f"{family}-{size}-{patch}" if family.startswith("eva") else f"vit-{size}-{patch}"
    if family.startswith("siglip"):
        stem += f"-{family}"
    return [f"{stem}{image}" for image in images]

"""The usual spellings of CLIP models by other projects, and open_clip's name for each."""

import re
from collections.abc import Iterable

SIZES = {"small": "s", "base": "b", "large": "l", "huge": "h", "giant": "g", "bigg": "bigg"}
# "ViT-L/14@336px", "vit_b16", "openai/clip-vit-base-patch16", "vit_large_patch14_clip_336.openai"
SPELLED = re.compile(
    r"vit[-_ /]?(?P<size>small|base|large|huge|giant|bigg|[sblhg])[-_ /]?(?:patch|p)?[-_ ]?"
    r"(?P<patch>\d\d)(?![\d])(?:[-_ @/]+(?:clip[-_]?)?(?P<image>\d{3})(?!\d))?",
    re.IGNORECASE,
)


def usual_name(name: str, known: Iterable[str]) -> str | None:
    """Open_clip's name of the model that another spelling means; None where it has none."""
    found = SPELLED.search(name)
    if found is None:
        return None
    size = SIZES.get(found["size"].lower(), found["size"].lower())
    quick = "-quickgelu" if "quickgelu" in name.lower().replace("-", "").replace("_", "") else ""
    images = [f"-{found['image']}", ""] if found["image"] else [""]
    wanted = [f"vit-{size}-{found['patch']}{image}{quick}" for image in images]
    by_lower = {choice.lower(): choice for choice in known}
    return next((by_lower[choice] for choice in wanted if choice in by_lower), None)

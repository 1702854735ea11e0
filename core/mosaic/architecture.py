"""The architecture of the embedded model: a CLIP of 1.6 million parameters, in open_clip's terms.

``core/clip/backbone.py`` builds and loads it like any other backbone.
"""

from pathlib import Path
from typing import Any

from core.mosaic.canvas import IMAGE_SIZE

NUM_MERGES = 2500
CONTEXT_LENGTH = 32
WEIGHTS_PATH = Path(__file__).parent / "weights" / "mosaic_clip.safetensors"

# The published CLIP's image statistics (Radford et al., ICML 2021, arXiv 2103.00020).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "layers": 4,
        "width": 128,
        "head_width": 32,
        "patch_size": 8,
        "image_size": IMAGE_SIZE,
        "mlp_ratio": 3.0,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 512 + NUM_MERGES + 2,
        "width": 128,
        "heads": 4,
        "layers": 3,
        "mlp_ratio": 3.0,
    },
}

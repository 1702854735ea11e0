"""The frozen two-tower model, its prompts, its tokenizer and the cache of its image features."""

import core.clip.torchvision_ops  # noqa: F401  (declares operators before open_clip imports torchvision)

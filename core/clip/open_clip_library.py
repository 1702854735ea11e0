"""The door to open_clip.

open_clip imports torchvision, which imports torch's compiler, and timm, transformers and all that
they import in turn: seconds, for what most models never use. Here these wait until they are used.
"""

import functools
from typing import Any

from core.clip.torchvision_ops import declare_missing_torchvision_ops
from core.deferred_imports import deferred_imports

UNUSED = ("torch._dynamo", "timm", "transformers")


@functools.cache
def load_open_clip() -> Any:
    """The module ``open_clip``."""
    declare_missing_torchvision_ops()
    try:
        with deferred_imports(*UNUSED):
            import open_clip
    except (ImportError, AttributeError, TypeError):  # a version that needs them at once
        import open_clip
    return open_clip

"""Makes torchvision importable beside a CPU-only torch.

torchvision's wheel registers its box operators in a library that needs CUDA. Where that library
cannot be loaded, ``import torchvision`` stops at "operator torchvision::nms does not exist".
Declaring the two operators first is enough: nothing in this project calls them.
"""

import torch

_MISSING = (
    ("nms", "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
    ("qnms", "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
)

_library: torch.library.Library | None = None


def declare_missing_torchvision_ops() -> None:
    """Declare ``torchvision::nms`` and ``qnms`` on a CPU-only torch, once."""
    global _library
    if torch.version.cuda is not None or _library is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _MISSING:
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _library = library  # the operators live as long as the library object


declare_missing_torchvision_ops()

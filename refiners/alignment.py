"""Alignment: maps local image tokens to the text space. Shapes: B images, N tokens, D width."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from core.config import Configurable, register
from core.seeding import Seeds, seeded_linear


class Alignment(nn.Module, Configurable, ABC):
    """Maps tokens (B, N, D_local) to (B, N, D_text). Built as ``Alignment(local, text, seeds)``."""

    @abstractmethod
    def forward(self, local_BND: Tensor) -> Tensor: ...


@register("alignment")
class MlpAlignment(Alignment):
    """Two 1x1 layers with batch norm and ReLU between them, over all B * N rows.

    The released refiner's alignment. Its output is not normalized. The first layer's bias gets no
    gradient (batch norm follows), and no released computation uses the running statistics.

    Source: Xie et al., TextRefiner, AAAI 2025, arXiv 2412.08176.
    """

    def __init__(self, local_width: int, text_width: int, seeds: Seeds) -> None:
        super().__init__()
        self.fc1 = seeded_linear(local_width, text_width, seeds.generator("fc1"))
        self.norm = nn.BatchNorm1d(text_width)
        self.fc2 = seeded_linear(text_width, text_width, seeds.generator("fc2"))

    def forward(self, local_BND: Tensor) -> Tensor:
        hidden = self.norm(self.fc1(local_BND).flatten(0, 1)).relu()
        aligned: Tensor = self.fc2(hidden)
        return aligned.reshape(*local_BND.shape[:2], -1)


@register("alignment")
class LinearAlignment(Alignment):
    """One linear layer with bias.

    Source: ours; the smallest map between widths.
    """

    def __init__(self, local_width: int, text_width: int, seeds: Seeds) -> None:
        super().__init__()
        self.linear = seeded_linear(local_width, text_width, seeds.generator("linear"))

    def forward(self, local_BND: Tensor) -> Tensor:
        aligned: Tensor = self.linear(local_BND)
        return aligned


@register("alignment")
class NoAlignment(Alignment):
    """Off: tokens as projected by the image tower."""

    def __init__(self, local_width: int, text_width: int, seeds: Seeds) -> None:
        super().__init__()
        if local_width != text_width:
            raise ValueError(
                f"NoAlignment needs local and text features of equal width, got {local_width} and "
                f"{text_width}; use @MlpAlignment, which maps widths"
            )

    def forward(self, local_BND: Tensor) -> Tensor:
        return local_BND

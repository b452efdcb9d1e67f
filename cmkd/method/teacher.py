"""Raw-domain teacher: h_t = Backbone^T(F_t) for every decoded frame (Sec. 2.1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Teacher(nn.Module):
    """Video classifier that returns its last feature maps.

    Args:
        backbone: (B, T, 3, H, W) -> (B, T, channels, h, w).
        channels: of its last feature map.
    """

    def __init__(
        self, backbone: nn.Module, channels: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(
        self, frames: Float[Tensor, "B T 3 H W"]
    ) -> tuple[Float[Tensor, "B T C h w"], Float[Tensor, "B K"]]:
        """(h, logits): feature maps of all frames, and the mean over frames of their logits."""
        h = self.backbone(frames)
        per_frame = self.classifier(self.dropout(h.mean((3, 4))))
        return h, per_frame.mean(1)

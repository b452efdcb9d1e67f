"""A branch of the student whose maps fit those of the others, whatever its backbone and input.

Legend: B clips, T frames, C channels of the input, D of the maps.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Side = tuple[int, int]
"""(height, width)."""

Resizing = Literal["nearest", "bilinear"]


class Branch(nn.Module):
    """Backbone^S of one modality, between a resized input and maps on the common grid.

    Eq. (1) pairs the tokens of the I-frame with those of motion and residual, so all branches
    must end on one grid; its products and the sums around it need one number of channels.
    Where a backbone already gives both, nothing is added and there are no further parameters.

    Args:
        backbone: (B, T, C, H, W) -> (B, T, channels, ceil(H / stride), ceil(W / stride)).
        input_size: of the motion maps or residuals as stored.
        resized: what the backbone sees of them; equal to `input_size` for no change.
        resizing: motion vectors are one constant per block, which "nearest" keeps: between two
            blocks that part, "bilinear" makes up vectors that no block has. Residuals are pictures.
        stride: input size / map size of the backbone.
        channels: of the backbone's maps.
        out_channels: of the maps of this branch; a 1x1 convolution leads there.
        grid: of the maps of this branch, which are interpolated to it bilinearly.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        input_size: Side,
        resized: Side,
        resizing: Resizing,
        stride: int,
        channels: int,
        out_channels: int,
        grid: Side,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.resized = None if resized == input_size else resized
        self.resizing = resizing
        self.project: nn.Module = nn.Identity()
        if channels != out_channels:
            self.project = nn.Conv2d(channels, out_channels, 1)
        own = (-(-resized[0] // stride), -(-resized[1] // stride))
        weights = None if own == grid else _interpolation(own, grid)
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self.grid = grid

    def forward(self, x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D h w"]:
        """Feature maps of every frame on the common grid."""
        steps = x.shape[:2]
        if self.resized is not None:
            x = F.interpolate(x.flatten(0, 1), self.resized, mode=self.resizing)
            x = x.unflatten(0, steps)
        maps = cast(Tensor, self.project(self.backbone(x).flatten(0, 1)))
        if self.weights is not None:
            maps = (maps.flatten(2) @ self.weights).unflatten(2, self.grid)
        return cast(Tensor, maps.unflatten(0, steps))


def _interpolation(own: Side, grid: Side) -> Float[Tensor, "hw pq"]:
    """Bilinear interpolation as a matrix.

    Its gradient is a product as well: deterministic on every device and fast, which that of
    torch's own interpolation on CUDA is not at once.
    """
    tokens = own[0] * own[1]
    units = torch.eye(tokens).view(tokens, 1, *own)
    return F.interpolate(units, grid, mode="bilinear", align_corners=False).flatten(1)

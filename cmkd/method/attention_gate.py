"""Attention gate: weight of each frame in the spatial loss (Sec. 2.2)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

REDUCTION = 4
"""Channels of a frame per hidden unit of the excitation."""


class AttentionGate(nn.Module):
    """alpha_t of Eq. (4): squeeze-and-excitation over the T frames' motion and residual features.

    "channels" squeezes positions: a frame's pooled [f^M_t, f^R_t] gives its own score, by one
    excitation shared over time, so alpha follows the content of a frame. "frames" squeezes
    channels and positions to one number per frame and modality and excites over the T frames.

    "softmax" returns T * softmax: weights average 1 and cannot all shrink to zero, the minimum of
    Eq. (4) under the plain "sigmoid" of SE (A8).

    Args:
        num_frames: T.
        channels: D.
    """

    def __init__(
        self,
        num_frames: int,
        channels: int,
        kind: Literal["softmax", "sigmoid"],
        squeeze: Literal["channels", "frames"],
    ) -> None:
        super().__init__()
        self.kind = kind
        self.squeeze = squeeze
        wide, inner, out = 2 * num_frames, num_frames, num_frames
        if squeeze == "channels":
            wide, inner, out = 2 * channels, max(channels // REDUCTION, 1), 1
        # A shift common to all frames would not change a softmax over them.
        last = nn.Linear(inner, out, bias=kind == "sigmoid" or squeeze == "frames")
        self.excite = nn.Sequential(nn.Linear(wide, inner), nn.ReLU(), last)

    def forward(
        self, f_m: Float[Tensor, "B T D h w"], f_r: Float[Tensor, "B T D h w"]
    ) -> Float[Tensor, "B T"]:
        """alpha_t: in (0, 1) for "sigmoid"; positive with mean 1 over T for "softmax"."""
        if self.squeeze == "channels":
            squeezed = torch.cat([f_m.mean((3, 4)), f_r.mean((3, 4))], dim=2)
            scores = cast(Tensor, self.excite(squeezed)).float().squeeze(2)
        else:
            squeezed = torch.cat([f_m.mean((2, 3, 4)), f_r.mean((2, 3, 4))], dim=1)
            scores = cast(Tensor, self.excite(squeezed)).float()
        if self.kind == "sigmoid":
            return torch.sigmoid(scores)
        return scores.shape[1] * torch.softmax(scores, dim=1)


def entropy(alpha: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean entropy of alpha / sum(alpha) in nats: log T when even, 0 when on one frame."""
    share = alpha / alpha.sum(1, keepdim=True).clamp_min(1e-12)
    return -(share * share.clamp_min(1e-12).log()).sum(1).mean()

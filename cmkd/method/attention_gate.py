"""Attention gate: weight of each frame in the spatial loss (Sec. 2.2)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AttentionGate(nn.Module):
    """alpha_t of Eq. (4): squeeze-and-excitation over the T frames' motion and residual features.

    "softmax" returns T * softmax, so that the weights average 1 and cannot all shrink to zero,
    which is what minimises Eq. (4) under the plain "sigmoid" of SE (A8).

    Args:
        num_frames: T.
    """

    def __init__(self, num_frames: int, kind: Literal["softmax", "sigmoid"]) -> None:
        super().__init__()
        self.kind = kind
        self.excite = nn.Sequential(
            nn.Linear(2 * num_frames, num_frames), nn.ReLU(), nn.Linear(num_frames, num_frames)
        )

    def forward(
        self, f_m: Float[Tensor, "B T D h w"], f_r: Float[Tensor, "B T D h w"]
    ) -> Float[Tensor, "B T"]:
        """alpha_t: in (0, 1) for "sigmoid"; positive with mean 1 over T for "softmax"."""
        squeezed = torch.cat([f_m.mean((2, 3, 4)), f_r.mean((2, 3, 4))], dim=1)
        scores = cast(Tensor, self.excite(squeezed)).float()
        if self.kind == "sigmoid":
            return torch.sigmoid(scores)
        return scores.shape[1] * torch.softmax(scores, dim=1)


def entropy(alpha: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean entropy of alpha / sum(alpha) in nats: log T when even, 0 when on one frame."""
    share = alpha / alpha.sum(1, keepdim=True).clamp_min(1e-12)
    return -(share * share.clamp_min(1e-12).log()).sum(1).mean()

"""Networks of Fig. 1: RGB teacher, and student of three branches, pseudo-decoder and gate.

Legend: B clips, T frames, C channels of the input, D of the maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cmkd.config.method import MethodConfig
from cmkd.method.pseudo_decoder import PseudoDecoder

Side = tuple[int, int]
"""(height, width)."""

REDUCTION = 4
"""Channels of a frame per hidden unit of the gate's excitation."""

Resizing = Literal["nearest", "bilinear"]


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


class Branch(nn.Module):
    """Backbone^S of one modality, from a resized input to maps on the common grid.

    Eq. (1) pairs the tokens of the I-frame with those of motion and residual, so all branches
    must end on one grid; its products and the sums around it need one number of channels.
    Where a backbone already gives both, nothing is added and there are no further parameters.

    Args:
        backbone: (B, T, C, H, W) -> (B, T, channels, ceil(H / stride), ceil(W / stride)).
        input_size: of the motion maps or residuals as stored.
        resized: what the backbone sees of them; equal to `input_size` for no change.
        resizing: "nearest" for motion vectors, which are constant per block; "bilinear", for
            residuals, would make up vectors between blocks.
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

    Its gradient is a product as well: fast and deterministic, also on CUDA, where torch's own is
    not.
    """
    tokens = own[0] * own[1]
    units = torch.eye(tokens).view(tokens, 1, *own)
    return F.interpolate(units, grid, mode="bilinear", align_corners=False).flatten(1)


@dataclass(frozen=True)
class Branches:
    """Backbone^S: one network per modality, all ending in (channels, *grid) maps.

    `i_frame` takes (N, G, 3, H, W), the others T frames of motion vectors or residuals.
    """

    i_frame: nn.Module
    motion: nn.Module
    residual: nn.Module
    channels: int
    grid: tuple[int, int]


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


@dataclass(frozen=True)
class StudentOutput:
    """Logits (B, K); h_hat (B, T, C, h, w) or None without a decoder; alpha (B, T)."""

    logits: Tensor
    h_hat: Tensor | None
    alpha: Tensor


class Student(nn.Module):
    """Student of every arm; `config.decoder=False` is the three-branch baseline (A14).

    Classifier (A15): per frame the pooled [f^I, f^M, f^R, h_hat] (without h_hat in the baseline),
    one linear layer, then the mean over frames; weighted by alpha when the gate learns from it.
    """

    def __init__(
        self,
        branches: Branches,
        num_frames: int,
        num_classes: int,
        dropout: float,
        config: MethodConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.i_frame, self.motion = branches.i_frame, branches.motion
        self.residual = branches.residual
        parts = 4 if config.decoder else 3
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(parts * branches.channels, num_classes)
        self.decoder: PseudoDecoder | None = None
        self.gate: AttentionGate | None = None
        if config.decoder:
            self.decoder = PseudoDecoder(branches.channels, branches.grid, config)
            if config.gate != "off":
                self.gate = AttentionGate(
                    num_frames, branches.channels, config.gate, config.gate_squeeze
                )

    def forward(
        self,
        i_frames: Float[Tensor, "N G 3 H W"],
        own: Int[Tensor, "B T"],
        motion: Float[Tensor, "B T C p q"],
        residual: Float[Tensor, "B T E r s"],
    ) -> StudentOutput:
        """Logits and what the KD losses look at.

        C = 2 and E = 3, times the consecutive frames that the backbones want for each.

        Args:
            i_frames: N sequences of G I-frames of the batch.
            own: index of each P-frame's own I-frame among those N * G (A4).
        """
        f_m, f_r = self.motion(motion), self.residual(residual)
        maps: Tensor = self.i_frame(i_frames).flatten(0, 1)
        pooled = [maps.mean((2, 3))[own], f_m.mean((3, 4)), f_r.mean((3, 4))]
        h_hat = None
        if self.decoder is not None:
            h_hat = self.decoder(maps, own, f_m, f_r)
            pooled.append(h_hat.mean((3, 4)))
        alpha = torch.ones_like(f_m[:, :, 0, 0, 0], dtype=torch.float32)
        if self.gate is not None:
            alpha = self.gate(f_m, f_r)
        per_frame = self.classifier(self.dropout(torch.cat(pooled, dim=2)))
        logits = per_frame.mean(1)
        if self.gate is not None and self.config.gate_learns == "pooling":
            share = alpha / alpha.sum(1, keepdim=True).clamp_min(1e-6)
            logits = (share[:, :, None] * per_frame).sum(1)
        return StudentOutput(logits, h_hat, alpha)

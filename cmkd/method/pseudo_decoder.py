"""Pseudo-decoder: compressed-domain features in, dense RGB-like features out (Sec. 2.1).

Legend: B clips, T P-frames, U I-frames in use, N = h * w tokens of a map, D channels.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cmkd.config.method import MethodConfig


def attn(
    q: Float[Tensor, "B T N D"],
    k: Float[Tensor, "B T N D"],
    v: Float[Tensor, "B T N D"],
    heads: int,
) -> Float[Tensor, "B T N D"]:
    """Multi-head softmax(q k^T / sqrt(D / heads)) v over the N tokens of a frame."""
    if heads == 1:
        # Two products and a softmax: for a few tokens faster than the general kernel.
        scores = (q * q.shape[-1] ** -0.5).flatten(0, 1) @ k.flatten(0, 1).transpose(1, 2)
        attended = torch.softmax(scores, -1) @ v.flatten(0, 1)
        return cast(Tensor, attended.unflatten(0, q.shape[:2]))
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(2, 3) for x in (q, k, v))
    # ONNX has the one of four axes alone.
    if q.is_cuda or torch.compiler.is_exporting():
        return fused_attention(q, k, v).transpose(2, 3).flatten(-2)
    # Here the fused kernel would round otherwise than it did in finished trials.
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(-2)


def fused_attention(
    q: Float[Tensor, "B T G N D"], k: Float[Tensor, "B T G N D"], v: Float[Tensor, "B T G N D"]
) -> Float[Tensor, "B T G N D"]:
    """Attention of G heads by a kernel that never writes N x N scores; those take four axes."""
    attended = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return cast(Tensor, attended.unflatten(0, q.shape[:2]))


class _Block(nn.Module):
    """Transformer encoder block around its attention: projection, shortcut, FFN (A2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(
        self, x: Float[Tensor, "B T N D"], attended: Float[Tensor, "B T N D"]
    ) -> Float[Tensor, "B T N D"]:
        x = x + self.out(attended)
        return x + cast(Tensor, self.ffn(x))


class CrossModalAttention(nn.Module):
    """Eq. (1): h_rec_t = Attn(Q^I, K_t^M, V^I) + Attn(Q^I, K_t^R, V^I).

    Tokens are the positions of the last feature map (A1). W^Q and W^V are shared by both paths,
    as the equation writes them. `attention="block"` wraps each path into a pre-norm encoder
    block with its own projection and FFN; "literal" is the bare sum (A2). `content` says what
    else reaches h_rec, since by Eq. (1) alone the values hold nothing of M and R (A3).

    Args:
        dim: D, channels of f_i, f_m and f_r; a multiple of `config.heads`.
        tokens: N.
    """

    def __init__(self, dim: int, tokens: int, config: MethodConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.content = config.content
        self.w_q = nn.Linear(dim, dim, bias=False)
        self.w_v = nn.Linear(dim, dim, bias=False)
        self.w_k_m = nn.Linear(dim, dim, bias=False)
        self.w_k_r = nn.Linear(dim, dim, bias=False)
        self.literal = config.attention == "literal"
        if not self.literal:
            self.position_q = nn.Parameter(0.02 * torch.randn(tokens, dim))
            self.position_k = nn.Parameter(0.02 * torch.randn(tokens, dim))
            self.norm_i, self.norm_m, self.norm_r = (nn.LayerNorm(dim) for _ in range(3))
            self.block_m = _Block(dim)
            self.block_r = _Block(dim)

    def forward(
        self,
        f_i: Float[Tensor, "U N D"],
        own: Int[Tensor, "B T"],
        f_m: Float[Tensor, "B T N D"],
        f_r: Float[Tensor, "B T N D"],
    ) -> Float[Tensor, "B T N D"]:
        """Eq. (1): h_rec of every P-frame. `own` names each P-frame's I-frame (A4).

        Queries, and values of I alone, are computed once per I-frame.
        """
        by_r = self.content == "value"
        if self.literal:
            q = self.w_q(f_i)[own]
            v = self.w_v(f_i[own] + f_r) if by_r else self.w_v(f_i)[own]
            h_rec = attn(q, self.w_k_m(f_m), v, self.heads)
            h_rec = h_rec + attn(q, self.w_k_r(f_r), v, self.heads)
        else:
            q = self.w_q(self.norm_i(f_i) + self.position_q)[own]
            v = self.w_v(self.norm_i(f_i[own] + f_r)) if by_r else self.w_v(self.norm_i(f_i))[own]
            k_m = self.w_k_m(self.norm_m(f_m) + self.position_k)
            k_r = self.w_k_r(self.norm_r(f_r) + self.position_k)
            repeated = f_i[own]
            h_rec = self.block_m(repeated, attn(q, k_m, v, self.heads))
            h_rec = h_rec + self.block_r(repeated, attn(q, k_r, v, self.heads))
        return h_rec + f_m + f_r if self.content == "add" else h_rec


class BiConvLSTM(nn.Module):
    """Eq. (2): h_hat = BiConvLSTM(h_rec), one 3x3 layer per direction.

    Both directions are concatenated and projected by a 1x1 convolution: an LSTM's output lies in
    (-1, 1) and the teacher's h_t does not (A5). The cell, a running sum, is kept in fp32.

    Args:
        channels: W of h_rec.
        hidden: channels per direction.
        out_channels: D of h_hat.
    """

    def __init__(self, channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Conv2d(channels, 8 * hidden, 3, padding=1)
        self.from_state = nn.Conv2d(2 * hidden, 8 * hidden, 3, padding=1, groups=2, bias=False)
        self.project = nn.Conv2d(2 * hidden, out_channels, 1)

    def forward(self, h_rec: Float[Tensor, "B T W h w"]) -> Float[Tensor, "B T D h w"]:
        """Eq. (2): h_hat of every P-frame."""
        batch, steps = h_rec.shape[:2]
        gates = self.from_input(h_rec.flatten(0, 1)).float().unflatten(0, (batch, steps))
        forward, backward = gates.unflatten(2, (2, -1)).unbind(2)
        # Both directions advance together: the backward one reads the clip reversed, and the
        # grouped convolution keeps their states apart. Half the steps of two separate passes.
        inputs = torch.stack([forward, backward.flip(1)], dim=2)
        state = inputs.new_zeros(batch, 2, self.hidden, *h_rec.shape[-2:])
        cell = torch.zeros_like(state)
        outputs: list[Tensor] = []
        # unbind, and not an index per step, whose gradient would be a whole clip of zeros each.
        for total in inputs.unbind(1):
            if outputs:
                total = total + self.from_state(state.flatten(1, 2)).unflatten(1, (2, -1))
            i, f, o, g = total.chunk(4, dim=2)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            state = torch.sigmoid(o) * torch.tanh(cell)
            outputs.append(state)
        ahead, back = torch.stack(outputs, dim=1).unbind(2)
        both = torch.cat([ahead, back.flip(1)], dim=2)
        return cast(Tensor, self.project(both.flatten(0, 1)).unflatten(0, (batch, steps)))


class PseudoDecoder(nn.Module):
    """h_hat_t for every P-frame, from the features of its I-frame, motion and residual.

    With `config.width` all of it happens in W = width channels (A2): one 1x1 convolution per
    modality leads there, and the last one of Eq. (2) back. Else W = D.

    Args:
        channels: D of all feature maps.
        grid: (h, w) of all feature maps.
    """

    def __init__(self, channels: int, grid: tuple[int, int], config: MethodConfig) -> None:
        super().__init__()
        self.grid = grid
        inner = config.width or channels
        self.attention = CrossModalAttention(inner, grid[0] * grid[1], config)
        self.temporal = BiConvLSTM(inner, config.hidden, channels)
        self.narrow_i, self.narrow_m, self.narrow_r = (
            nn.Identity() if config.width is None else nn.Conv2d(channels, inner, 1)
            for _ in range(3)
        )

    def forward(
        self,
        f_i: Float[Tensor, "U D h w"],
        own: Int[Tensor, "B T"],
        f_m: Float[Tensor, "B T D h w"],
        f_r: Float[Tensor, "B T D h w"],
    ) -> Float[Tensor, "B T D h w"]:
        """h_hat, Eqs. (1) and (2) in turn.

        `f_i` holds the maps of the I-frames; `own` names that of each P-frame.
        """
        steps = f_m.shape[:2]
        f_m = self.narrow_m(f_m.flatten(0, 1)).unflatten(0, steps)
        f_r = self.narrow_r(f_r.flatten(0, 1)).unflatten(0, steps)
        of_i = self.narrow_i(f_i).flatten(2).transpose(1, 2)
        of_m, of_r = (x.flatten(3).transpose(2, 3) for x in (f_m, f_r))
        h_rec = self.attention(of_i, own, of_m, of_r).transpose(2, 3).unflatten(3, self.grid)
        return cast(Tensor, self.temporal(h_rec))

"""Pseudo-decoder, first half: I-frame features re-arranged by motion and residual (Sec. 2.1).

Legend: B clips, T P-frames, N = h * w tokens of a feature map, D channels.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
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
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(2, 3) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(-2)


class _Block(nn.Module):
    """What a Transformer encoder puts around its attention: projection, shortcut, FFN (A2)."""

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
        f_i: Float[Tensor, "B T N D"],
        f_m: Float[Tensor, "B T N D"],
        f_r: Float[Tensor, "B T N D"],
    ) -> Float[Tensor, "B T N D"]:
        """Eq. (1): h_rec of every P-frame. `f_i` holds each P-frame's own I-frame (A4)."""
        value = f_i + f_r if self.content == "value" else f_i
        if self.literal:
            q, v = self.w_q(f_i), self.w_v(value)
            h_rec = attn(q, self.w_k_m(f_m), v, self.heads)
            h_rec = h_rec + attn(q, self.w_k_r(f_r), v, self.heads)
        else:
            q = self.w_q(self.norm_i(f_i) + self.position_q)
            v = self.w_v(self.norm_i(value))
            k_m = self.w_k_m(self.norm_m(f_m) + self.position_k)
            k_r = self.w_k_r(self.norm_r(f_r) + self.position_k)
            h_rec = self.block_m(f_i, attn(q, k_m, v, self.heads))
            h_rec = h_rec + self.block_r(f_i, attn(q, k_r, v, self.heads))
        return h_rec + f_m + f_r if self.content == "add" else h_rec

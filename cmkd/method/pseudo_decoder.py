"""The pseudo-decoder: compressed-domain features in, dense RGB-like features out (Sec. 2.1)."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from cmkd.config.method import MethodConfig
from cmkd.method.attention import CrossModalAttention
from cmkd.method.bi_convlstm import BiConvLSTM


class PseudoDecoder(nn.Module):
    """h_hat_t for every P-frame, from the features of its I-frame, motion and residual.

    Args:
        channels: D of all feature maps.
        grid: (h, w) of all feature maps.
    """

    def __init__(self, channels: int, grid: tuple[int, int], config: MethodConfig) -> None:
        super().__init__()
        self.grid = grid
        self.attention = CrossModalAttention(channels, grid[0] * grid[1], config)
        self.temporal = BiConvLSTM(channels, config.hidden)

    def forward(
        self,
        f_i: Float[Tensor, "B T D h w"],
        f_m: Float[Tensor, "B T D h w"],
        f_r: Float[Tensor, "B T D h w"],
    ) -> Float[Tensor, "B T D h w"]:
        """h_hat, Eqs. (1) and (2) in turn."""
        tokens = (x.flatten(3).transpose(2, 3) for x in (f_i, f_m, f_r))
        h_rec = self.attention(*tokens).transpose(2, 3).unflatten(3, self.grid)
        return cast(Tensor, self.temporal(h_rec))

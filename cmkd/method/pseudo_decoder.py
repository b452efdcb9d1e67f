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
        f_i: Float[Tensor, "B T W h w"],
        f_m: Float[Tensor, "B T D h w"],
        f_r: Float[Tensor, "B T D h w"],
    ) -> Float[Tensor, "B T D h w"]:
        """h_hat, Eqs. (1) and (2) in turn.

        `f_i` has been through `narrow_i`: before it is repeated for each P-frame of its GOP, that
        costs a fraction.
        """
        steps = f_m.shape[:2]
        f_m = self.narrow_m(f_m.flatten(0, 1)).unflatten(0, steps)
        f_r = self.narrow_r(f_r.flatten(0, 1)).unflatten(0, steps)
        tokens = (x.flatten(3).transpose(2, 3) for x in (f_i, f_m, f_r))
        h_rec = self.attention(*tokens).transpose(2, 3).unflatten(3, self.grid)
        return cast(Tensor, self.temporal(h_rec))

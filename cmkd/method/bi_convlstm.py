"""Pseudo-decoder, second half: a bidirectional convolutional LSTM over the P-frames."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn


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

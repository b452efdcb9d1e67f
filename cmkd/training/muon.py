"""Muon: momentum whose matrices are orthogonalised before they are applied.

Source of the rule: Keller Jordan et al., Muon (2024), ``KellerJordan/Muon``. ``torch.optim.Muon``
takes 2-D parameters only, so neither convolutions nor biases, and rounds to bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

MOMENTUM = 0.95
ADAM_RATE = 0.1
"""Learning rate of biases and normalisation, as a share of the rate of matrices."""
ADAM_BETAS = (0.9, 0.99)
ADAM_EPS = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether Muon's rule fits: a weight of a convolution or of a linear layer."""
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) > 1


def orthogonalise(x: Float[Tensor, "S M N"]) -> Float[Tensor, "S M N"]:
    """Nearest semi-orthogonal matrices, approximately: singular values end in 0.7-1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[1] > x.shape[2]
    wide = x.mT if tall else x
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = wide @ wide.mT
        wide = a * wide + (b * square + c * square @ square) @ wide
    return cast(Tensor, wide.mT if tall else wide)


class Muon(Optimizer):
    """Muon for matrices, AdamW at `ADAM_RATE` of the rate for biases and normalisation.

    A convolution's weight counts as the matrix (outputs, inputs * height * width).
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step with the gradients as they are."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
            others: list[nn.Parameter] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if is_matrix(parameter):
                    shape = (len(parameter), parameter[0].numel())
                    by_shape.setdefault(shape, []).append(parameter)
                else:
                    others.append(parameter)
            for matrices in by_shape.values():
                self._step_matrices(matrices, group["lr"], group["weight_decay"])
            if others:
                self._step_others(others, ADAM_RATE * group["lr"], group["weight_decay"])

    def _step_matrices(
        self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
    ) -> None:
        """Step of matrices of one shape: together, as each of them is small."""
        ahead: list[Tensor] = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            ahead.append(parameter.grad.lerp(momentum, MOMENTUM).flatten(1))
        changes = orthogonalise(torch.stack(ahead))
        rate = lr * max(1.0, changes.shape[1] / changes.shape[2]) ** 0.5
        for parameter, change in zip(parameters, changes, strict=True):
            parameter.mul_(1 - lr * weight_decay)
            parameter.add_(change.reshape(parameter.shape), alpha=-rate)

    def _step_others(
        self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
    ) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros((), device=parameter.device),
                    first=torch.zeros_like(parameter),
                    second=torch.zeros_like(parameter),
                )
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            [*parameters],
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["first"] for state in states],
            [state["second"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=ADAM_EPS,
            maximize=False,
        )

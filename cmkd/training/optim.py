"""Optimiser and schedule of a `TrainingConfig`, and frozen parts of a network.

Sources: rules of TSN by ``get_optim_policies`` and ``partialBN`` of
mit-han-lab/temporal-shift-module (`ops/models.py`), RGB; Muon by Keller Jordan et al. (2024),
``KellerJordan/Muon``. ``torch.optim.Muon`` takes 2-D parameters only, so neither convolutions nor
biases, and rounds to bfloat16.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from cmkd.config.trial import TrainingConfig
from cmkd.errors import ConfigError

MOMENTUM = 0.95
ADAM_RATE = 0.1
"""Learning rate of biases and normalisation, as a share of the rate of matrices."""
ADAM_BETAS = (0.9, 0.99)
ADAM_EPS = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5

_Multipliers = tuple[float, float]
"""Multipliers of the learning rate and of the weight decay."""


@runtime_checkable
class _Recomputing(Protocol):
    """A backbone that can compute activations twice."""

    checkpointing: bool


def prepare(model: nn.Module, config: TrainingConfig) -> tuple[nn.Module, ...]:
    """Set the model up for training, in place.

    Returns:
        Modules that training leaves in evaluation mode: with `partial_bn` all batch normalisation
        but the first of each network in `model`, whose weights are frozen too.

    Raises:
        ConfigError: `checkpointing` is asked of networks that cannot.
    """
    able = [module for module in model.modules() if isinstance(module, _Recomputing)]
    if config.checkpointing and not able:
        raise ConfigError(
            "training.checkpointing: true is for the full-size backbones; leave it out"
        )
    for module in able:
        module.checkpointing = config.checkpointing
    if config.compile:
        torch.use_deterministic_algorithms(True)  # of compiled code as well
        model.compile()
    frozen: list[nn.Module] = []
    for network in model.children() if config.partial_bn else ():
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        frozen += norms[1:]
    for norm in frozen:
        norm.requires_grad_(False)
    return tuple(frozen)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """Muon, AdamW or SGD over all trainable parameters; the first group has the plain rate."""
    grouped: dict[_Multipliers, list[nn.Parameter]] = {(1.0, 1.0): []}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                tsn = config.multipliers == "tsn"
                multipliers = _tsn(path, module, name) if tsn else (1.0, 1.0)
                grouped.setdefault(multipliers, []).append(parameter)
    groups = [
        {"params": own, "lr": config.lr * rate, "weight_decay": config.weight_decay * decay}
        for (rate, decay), own in grouped.items()
        if own
    ]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=0.9, fused=True)
    if config.optimizer == "muon":
        return Muon(groups, lr=config.lr)
    return AdamW(groups, lr=config.lr, fused=True)


def make_schedule(
    optimizer: Optimizer, config: TrainingConfig, steps_per_epoch: int
) -> LRScheduler:
    """One cycle over the training, or steps of 0.1; to be stepped after every batch."""
    if config.schedule == "steps":
        milestones = [epoch * steps_per_epoch for epoch in config.milestones]
        return MultiStepLR(optimizer, milestones, gamma=0.1)
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=config.epochs * steps_per_epoch + 1,
        cycle_momentum=config.optimizer == "adamw",
        anneal_strategy="linear" if config.optimizer == "muon" else "cos",
        div_factor=50.0 if config.optimizer == "muon" else 25.0,
    )


def _tsn(path: str, module: nn.Module, name: str) -> _Multipliers:
    """The official code knows convolutions, one linear layer and batch normalisation.

    Our further parts follow the nearest of them: linear layers of the pseudo-decoder are like
    convolutions (so does the official code with linear layers without ``fc_lr5``), layer
    normalisation like batch normalisation, position embeddings like weights.
    """
    bias = name.endswith("bias")
    if path == "classifier":
        return (10.0, 0.0) if bias else (5.0, 1.0)
    if isinstance(module, _BatchNorm | nn.LayerNorm):
        return 1.0, 0.0
    return (2.0, 0.0) if bias else (1.0, 1.0)


def is_matrix(parameter: nn.Parameter) -> bool:
    """True for the weight of a convolution or of a linear layer, which Muon's rule fits."""
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

    # The decorators of these methods load torch.compile, which takes two seconds.
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

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

"""What `TrainingConfig` makes of a network: its optimiser, its schedule, what of it learns.

Source of the rules of TSN: ``get_optim_policies`` and ``partialBN`` of
mit-han-lab/temporal-shift-module (`ops/models.py`), RGB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from cmkd.config.training import TrainingConfig
from cmkd.errors import ConfigError
from cmkd.training.muon import Muon

_Multipliers = tuple[float, float]
"""Of the learning rate and of the weight decay."""


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
        model.compile()
    frozen = tuple(_later_norms(model)) if config.partial_bn else ()
    for norm in frozen:
        norm.requires_grad_(False)
    return frozen


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """Muon, AdamW or SGD over all trainable parameters; the first group has the plain rate."""
    grouped: dict[_Multipliers, list[nn.Parameter]] = {(1.0, 1.0): []}
    for parameter, multipliers in _parameters(model, config):
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


def _parameters(
    model: nn.Module, config: TrainingConfig
) -> Iterator[tuple[nn.Parameter, _Multipliers]]:
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                tsn = config.multipliers == "tsn"
                yield parameter, _tsn(path, module, name) if tsn else (1.0, 1.0)


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


def _later_norms(model: nn.Module) -> Iterator[nn.Module]:
    for network in model.children():
        norms: Sequence[nn.Module] = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        yield from norms[1:]

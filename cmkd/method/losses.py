"""Training objective, Eqs. (4), (6) and (7), and logits KD. Computed in fp32 throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cmkd.config.method import LOSSES, GraphIndex, MethodConfig
from cmkd.config.paths import load_plugin
from cmkd.method.networks import StudentOutput
from cmkd.method.temporal_graph import edges

KL_TEMPERATURE = 4.0
REFERENCE_CHANNELS = 64
"""C at which "level" is the squared norm per position: the maps of the tiny networks."""


@dataclass(frozen=True)
class TeacherTargets:
    """Outputs of the frozen teacher for a batch; losses send no gradient back here.

    Attributes:
        h: (B, T, C, h, w) last feature maps, standardised per channel by the training set.
        logits: (B, K).
        mean_edges: mean edge of each graph over the training set, see `temporal_graph.edges`.
    """

    h: Float[Tensor, "B T C h w"]
    logits: Float[Tensor, "B K"]
    mean_edges: Mapping[GraphIndex, float]


@dataclass(frozen=True)
class Losses:
    """L_total, and by name its unweighted terms: "ce" and those with a weight in the config."""

    total: Tensor
    terms: Mapping[str, Tensor]


LossFunction = Callable[
    [StudentOutput, TeacherTargets, Int[Tensor, " B"], MethodConfig], Float[Tensor, ""]
]
"""Loss term: (output, targets, labels, config) -> scalar."""


def spatial_loss(
    h: Float[Tensor, "B T C h w"],
    h_hat: Float[Tensor, "B T C h w"],
    alpha: Float[Tensor, "B T"],
    config: MethodConfig,
) -> Float[Tensor, ""]:
    """Eq. (4): L_spatial = sum_t alpha_t ||h_t - h_hat_t||_2^2, averaged over frames and clips.

    Under "level" the squared norm is divided by h w sqrt(C) / 8 (A12): see `channels_level`.
    """
    error = (h.float() - h_hat.float()).square().flatten(2).mean(-1)
    channels, *grid = h.shape[2:]
    scale = {
        "level": channels_level(channels) * REFERENCE_CHANNELS,
        "sum": channels * math.prod(grid),
        "mean": 1.0,
    }
    return scale[config.reduction] * (alpha * error).mean()


def temporal_loss(
    h: Float[Tensor, "B T C h w"],
    h_hat: Float[Tensor, "B T C h w"],
    mean_edges: Mapping[GraphIndex, float],
    config: MethodConfig,
) -> Float[Tensor, ""]:
    """Eq. (6): L_temporal = sum_i ||E_i^raw - E_i^comp||_2^2, averaged over clips.

    The sum runs over the graphs of Eq. (5) alone; the un-mapped graph of Eq. (3) is left out
    (A13). The squared norm over the T x T edges is a mean except under "sum" (A12).
    """
    terms = [
        F.mse_loss(edges(h_hat, i, config, mean_edges[i]), edges(h, i, config, mean_edges[i]))
        for i in config.tg
    ]
    scale = {"level": channels_level(h.shape[2]), "sum": h.shape[1] ** 2, "mean": 1.0}
    return scale[config.reduction] * sum(terms[1:], start=terms[0])


def logits_loss(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], config: MethodConfig
) -> Float[Tensor, ""]:
    """Logits KD of the paper's Sec. 3.3 (A16): MSE over the classes, or T^2 KL at T = 4.

    Under "level" the MSE is multiplied by sqrt(K) / 4 (A12). KL keeps its scale.
    """
    student, teacher = student.float(), teacher.float()
    if config.logits == "mse":
        classes = student.shape[1]
        scale = {"level": math.sqrt(classes) / 4, "sum": classes, "mean": 1.0}
        return scale[config.reduction] * F.mse_loss(student, teacher)
    log_p = F.log_softmax(student / KL_TEMPERATURE, dim=1)
    log_q = F.log_softmax(teacher / KL_TEMPERATURE, dim=1)
    return KL_TEMPERATURE**2 * F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")


def channels_level(channels: int) -> float:
    """Scale of a KD term under `reduction: level`: sqrt(C / 64), 1 for the tiny networks (A12).

    Per clip, the gradient of cross-entropy on h_hat has the norm g / sqrt(T h w), whatever C. The
    gradient of an element mean of squared errors has the norm 2 e / sqrt(T C h w), with e the
    RMS error. sqrt(C) makes their ratio independent of C, T, h and w.
    """
    return math.sqrt(channels / REFERENCE_CHANNELS)


def spatial_term(
    output: StudentOutput, targets: TeacherTargets, labels: Tensor, config: MethodConfig
) -> Float[Tensor, ""]:
    """`spatial_loss` with the gate's alpha, detached where the gate learns from pooling."""
    assert output.h_hat is not None
    alpha = output.alpha.detach() if config.gate_learns == "pooling" else output.alpha
    return spatial_loss(targets.h, output.h_hat, alpha, config)


def temporal_term(
    output: StudentOutput, targets: TeacherTargets, labels: Tensor, config: MethodConfig
) -> Float[Tensor, ""]:
    """`temporal_loss` at the teacher's mean edges."""
    assert output.h_hat is not None
    return temporal_loss(targets.h, output.h_hat, targets.mean_edges, config)


def logits_term(
    output: StudentOutput, targets: TeacherTargets, labels: Tensor, config: MethodConfig
) -> Float[Tensor, ""]:
    """`logits_loss` of the student's and the teacher's logits."""
    return logits_loss(output.logits, targets.logits, config)


@cache
def loss_function(name: str) -> LossFunction:
    """Function of a term: by its entry in `LOSSES`, else of another package."""
    path = LOSSES[name].function if name in LOSSES else name
    function: LossFunction = load_plugin("loss", path)
    return function


def total_loss(
    output: StudentOutput,
    labels: Int[Tensor, " B"],
    targets: TeacherTargets | None,
    config: MethodConfig,
) -> Losses:
    """Eq. (7): L_total = L_CE + lambda_1 L_spatial + lambda_2 L_temporal (+ further terms).

    Args:
        targets: needed when `config.needs_teacher`, ignored otherwise.
    """
    ce = F.cross_entropy(output.logits.float(), labels)
    total, terms = ce, {"ce": ce}
    if config.needs_teacher:
        assert targets is not None
        targets = replace(targets, h=targets.h.detach(), logits=targets.logits.detach())
        for name, weight in config.weights.items():
            terms[name] = loss_function(name)(output, targets, labels, config)
            total = total + weight * terms[name]
    return Losses(total, terms)


def gradient_ratios(
    losses: Losses, h_hat: Float[Tensor, "B T C h w"], config: MethodConfig
) -> Mapping[str, Float[Tensor, ""]]:
    """Norm of each weighted term's gradient on h_hat, relative to that of cross-entropy.

    Costs a backward pass of each term down to h_hat; the graph is kept for training.
    """

    def norm(loss: Tensor) -> Tensor:
        if not loss.requires_grad:
            return loss.new_zeros(())
        (found,) = torch.autograd.grad(loss, h_hat, retain_graph=True, allow_unused=True)
        return loss.new_zeros(()) if found is None else cast(Tensor, found.float().norm())

    ce = norm(losses.terms["ce"]).clamp_min(1e-12)
    return {name: weight * norm(losses.terms[name]) / ce for name, weight in config.weights.items()}

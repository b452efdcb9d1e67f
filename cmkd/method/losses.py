"""The training objective, Eqs. (4), (6) and (7), and logits KD. Computed in fp32 throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.method.student import StudentOutput
from cmkd.method.temporal_graph import edges

KL_TEMPERATURE = 4.0


@dataclass(frozen=True)
class TeacherTargets:
    """What a batch's clips look like to the frozen teacher; losses send no gradient back here.

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
    """L_total and its unweighted terms; a term that the config leaves out is None."""

    total: Tensor
    ce: Tensor
    spatial: Tensor | None = None
    temporal: Tensor | None = None
    logits: Tensor | None = None


def spatial_loss(
    h: Float[Tensor, "B T C h w"],
    h_hat: Float[Tensor, "B T C h w"],
    alpha: Float[Tensor, "B T"],
    config: MethodConfig,
) -> Float[Tensor, ""]:
    """Eq. (4): L_spatial = sum_t alpha_t ||h_t - h_hat_t||_2^2, averaged over frames and clips.

    A12: "sum" is the squared norm over channels and positions, the scale in which the paper's
    lambda_1 = 0.1 is reproduced; "mean" divides it by their number.
    """
    error = (h.float() - h_hat.float()).square().flatten(2)
    per_frame = error.sum(-1) if config.spatial_reduction == "sum" else error.mean(-1)
    return (alpha * per_frame).mean()


def temporal_loss(
    h: Float[Tensor, "B T C h w"],
    h_hat: Float[Tensor, "B T C h w"],
    mean_edges: Mapping[GraphIndex, float],
    config: MethodConfig,
) -> Float[Tensor, ""]:
    """Eq. (6): L_temporal = sum_i ||E_i^raw - E_i^comp||_2^2, averaged over edges and clips.

    The sum runs over the graphs of Eq. (5) alone; the un-mapped graph is not in it (A13).
    """
    terms = [
        F.mse_loss(edges(h_hat, i, config, mean_edges[i]), edges(h, i, config, mean_edges[i]))
        for i in config.tg
    ]
    return sum(terms[1:], start=terms[0])


def logits_loss(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], config: MethodConfig
) -> Float[Tensor, ""]:
    """Logits KD of the paper's Sec. 3.3 (A16): element-mean MSE, or T^2 KL at T = 4."""
    student, teacher = student.float(), teacher.float()
    if config.logits == "mse":
        return F.mse_loss(student, teacher)
    log_p = F.log_softmax(student / KL_TEMPERATURE, dim=1)
    log_q = F.log_softmax(teacher / KL_TEMPERATURE, dim=1)
    return KL_TEMPERATURE**2 * F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")


def total_loss(
    output: StudentOutput,
    labels: Int[Tensor, " B"],
    targets: TeacherTargets | None,
    config: MethodConfig,
) -> Losses:
    """Eq. (7): L_total = L_CE + lambda_1 L_spatial + lambda_2 L_temporal (+ logits KD).

    Args:
        targets: needed when `config.needs_teacher`, ignored otherwise.
    """
    ce = F.cross_entropy(output.logits.float(), labels)
    total, spatial, temporal, logits = ce, None, None, None
    if targets is not None and output.h_hat is not None:
        h = targets.h.detach()
        if config.lambda_1:
            alpha = output.alpha.detach() if config.gate_learns == "pooling" else output.alpha
            spatial = spatial_loss(h, output.h_hat, alpha, config)
            total = total + config.lambda_1 * spatial
        if config.lambda_2:
            temporal = temporal_loss(h, output.h_hat, targets.mean_edges, config)
            total = total + config.lambda_2 * temporal
    if targets is not None and config.logits != "off":
        logits = logits_loss(output.logits, targets.logits.detach(), config)
        total = total + config.lambda_logits * logits
    return Losses(total=total, ce=ce, spatial=spatial, temporal=temporal, logits=logits)

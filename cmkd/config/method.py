"""The method of the paper's Sec. 2 as data; ids A1-A18 are in the README's assumptions table."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cmkd.config.base import Config

GraphIndex = Literal[1, 2, 3]
Gate = Literal["off", "softmax", "sigmoid"]


class MethodConfig(Config):
    """Losses, pseudo-decoder, gate and graphs. Defaults are the paper's TSM/TDN+ours row."""

    decoder: bool = Field(
        default=True, description="pseudo-decoder of Eqs. 1-2; False is the three-branch baseline"
    )
    lambda_1: float = Field(default=0.1, ge=0, description="weight of spatial KD in Eq. 7")
    lambda_2: float = Field(default=1.0, ge=0, description="weight of temporal KD in Eq. 7")
    logits: Literal["off", "mse", "kl"] = Field(
        default="off",
        description="A16: logits KD by squared error, or by KL divergence at temperature 4",
    )
    lambda_logits: float = Field(default=1.0, ge=0, description="A16: weight of logits KD")

    attention: Literal["block", "literal"] = Field(
        default="block", description="A2: transformer block, or the bare sum of Eq. 1"
    )
    content: Literal["literal", "value", "add"] = Field(
        default="add",
        description="A3: values from I only; values from I + R; or f_m + f_r added to Eq. 1",
    )
    heads: int = Field(default=4, ge=1, description="A2: attention heads")
    hidden: int = Field(default=32, ge=1, description="A5: ConvLSTM channels per direction")
    width: int | None = Field(
        default=None,
        ge=1,
        description="A2: channels inside the pseudo-decoder; null: those of the maps",
    )

    gate: Gate = Field(
        default="softmax", description="A8: T * softmax, the plain sigmoid of SE, or alpha = 1"
    )
    gate_learns: Literal["pooling", "loss"] = Field(
        default="pooling",
        description="A8: alpha detached in Eq. 4 and trained as pooling weight, or through Eq. 4",
    )

    tg: tuple[GraphIndex, ...] = Field(
        default=(1, 2, 3), min_length=1, description="temporal graphs of Eq. 5 that are distilled"
    )
    tg_features: Literal["map", "pooled"] = Field(
        default="map", description="A6: vertices from the feature map or its global average"
    )
    tg_kernel: Literal["elementwise", "scalar"] = Field(
        default="elementwise", description="A9: kernel per element, or the literal norm of Eq. 5"
    )
    tg_edge: Literal["sqrt", "max", "raw"] = Field(
        default="sqrt",
        description="A11: root of edge / mean teacher edge; edge / clip maximum; Eq. 3 as it is",
    )
    spatial_reduction: Literal["sum", "mean"] = Field(
        default="sum", description="A12: squared norm of Eq. 4, or its element mean"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.decoder and (self.lambda_1 or self.lambda_2):
            raise ValueError(
                "decoder: false has no h_hat to distil into; set lambda_1 and lambda_2 to 0.0"
            )
        if tuple(sorted(set(self.tg))) != self.tg:
            raise ValueError(f"tg: {list(self.tg)} must be ascending without repeats")
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss term looks at the teacher."""
        return bool(self.lambda_1 or self.lambda_2 or self.logits != "off")

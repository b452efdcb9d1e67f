"""Method of the paper's Sec. 2 as data; assumptions A1-A18 are explained in ``docs/method.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from cmkd.config.base import Config, Neutral, dotted
from cmkd.config.paths import load_plugin

GraphIndex = Literal[1, 2, 3]
Gate = Literal["off", "softmax", "sigmoid"]
Reduction = Literal["level", "sum", "mean"]


@dataclass(frozen=True)
class LossTerm:
    """Term of the total loss, Eq. (7), beside cross-entropy. All of them need the teacher.

    Attributes:
        name: of the term; its metric is ``loss_NAME``.
        weight: field of `MethodConfig` with its weight; 0 leaves the term out.
        function: ``module:function`` of (output, targets, labels, config), see `method.losses`.
        switch: field of `MethodConfig` that leaves the term out when it is "off".
        needs_decoder: it compares the output of the pseudo-decoder.
    """

    name: str
    weight: str
    function: str
    switch: str | None = None
    needs_decoder: bool = True


LOSSES: Mapping[str, LossTerm] = {
    term.name: term
    for term in (
        LossTerm("spatial", "lambda_1", "cmkd.method.losses:spatial_term"),
        LossTerm("temporal", "lambda_2", "cmkd.method.losses:temporal_term"),
        LossTerm("logits", "lambda_logits", "cmkd.method.losses:logits_term", "logits", False),
    )
}
"""Loss terms of this package by name, in the order in which they are added."""


def _weights(value: Any) -> Any:
    """(name, weight) pairs from a mapping or pairs; no zeros, ascending by name."""
    if not isinstance(value, Mapping | tuple | list):
        return value
    # Dotted keys of a spec nest the dots of a module's name.
    pairs = dotted(value) if isinstance(value, Mapping) else dict(value)
    for name in pairs:
        if name in LOSSES:
            raise ValueError(f"{name} is a term of its own; set {LOSSES[name].weight}")
        load_plugin("loss", name)
    return tuple(sorted((name, weight) for name, weight in pairs.items() if weight != 0))


Weight = Annotated[float, Field(ge=0)]
ExtraLosses = Annotated[
    tuple[tuple[str, Weight], ...],
    BeforeValidator(_weights),
    PlainSerializer(dict),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}),
    Neutral(()),
]


class MethodConfig(Config):
    """Losses, pseudo-decoder, gate and graphs. Defaults are the paper's TSM/TDN+ours row."""

    decoder: bool = True
    """Pseudo-decoder of Eqs. 1-2; False is the three-branch baseline."""
    lambda_1: float = Field(0.1, ge=0)
    """Weight of spatial KD in Eq. 7."""
    lambda_2: float = Field(1.0, ge=0)
    """Weight of temporal KD in Eq. 7."""
    logits: Literal["off", "mse", "kl"] = "off"
    """A16: logits KD by squared error, or by KL divergence at temperature 4."""
    lambda_logits: float = Field(1.0, ge=0)
    """A16: weight of logits KD."""
    extra_losses: ExtraLosses = ()
    """NAME (module:function, or registered) -> weight of a loss term of yours."""

    attention: Literal["block", "literal"] = "literal"
    """A2: the bare sum of Eq. 1, or a transformer block."""
    content: Literal["literal", "value", "add"] = "add"
    """A3: values from I only; values from I + R; or f_m + f_r added to Eq. 1."""
    heads: int = Field(1, ge=1)
    """A2: attention heads."""
    hidden: int = Field(16, ge=1)
    """A5: ConvLSTM channels per direction."""
    width: int | None = Field(None, ge=1)
    """A2: channels inside the pseudo-decoder; null: those of the maps."""

    gate_squeeze: Literal["channels", "frames"] = "channels"
    """A8: one excitation of a frame's channels, shared over time; or one number per frame and an
    excitation over positions."""
    gate: Gate = "off"
    """A8: alpha = 1, T * softmax, or the plain sigmoid of SE."""
    gate_learns: Literal["pooling", "loss"] = "pooling"
    """A8: alpha detached in Eq. 4 and trained as pooling weight, or through Eq. 4."""

    tg: tuple[GraphIndex, ...] = Field((1, 2, 3), min_length=1)
    """Temporal graphs of Eq. 5 that are distilled."""
    tg_features: Literal["map", "pooled"] = "map"
    """A6: vertices from the feature map or its global average."""
    tg_kernel: Literal["elementwise", "scalar"] = "elementwise"
    """A9: kernel per element, or the literal norm of Eq. 5."""
    tg_edge: Literal["sqrt", "max", "raw"] = "sqrt"
    """A11: root of edge / mean teacher edge; edge / clip maximum; Eq. 3 as it is."""
    reduction: Reduction = "level"
    """A12: KD terms at one scale for all map sizes; squared norms as printed; or element means."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        weights = [term.weight for term in LOSSES.values() if term.needs_decoder]
        if not self.decoder and any(getattr(self, weight) for weight in weights):
            raise ValueError(
                f"decoder: false has no h_hat to distil into; set {' and '.join(weights)} to 0.0"
            )
        if tuple(sorted(set(self.tg))) != self.tg:
            raise ValueError(f"tg: {list(self.tg)} must be ascending without repeats")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weights of all active loss terms beside cross-entropy, by name, none of them 0."""
        own = {
            term.name: float(getattr(self, term.weight))
            for term in LOSSES.values()
            if term.switch is None or getattr(self, term.switch) != "off"
        }
        return {name: weight for name, weight in [*own.items(), *self.extra_losses] if weight}

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss term compares with the teacher."""
        return bool(self.weights)


NO_KD: Mapping[str, Any] = {
    "extra_losses": (),
    **{term.weight: 0.0 for term in LOSSES.values() if term.switch is None},
    **{
        key: MethodConfig.model_fields[key].default
        for term in LOSSES.values()
        if term.switch
        for key in (term.switch, term.weight)
    },
}
"""Values of the fields of `MethodConfig` in an arm without distillation."""

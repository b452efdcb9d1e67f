"""Optimisation and model sizes of students and teachers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cmkd.config.backbones import BackboneName, find_backbone
from cmkd.config.base import Config, Knob, Neutral


class TrainingConfig(Config):
    """Optimisation of a network; the same fields for students and teachers.

    The defaults suit the tiny networks: Muon under a one-cycle schedule. Published schedules of
    the full-size ones are in ``presets.yaml``.
    """

    epochs: int = Field(default=10, ge=1, description="passes over the training clips")
    batch_size: int = Field(default=16, ge=2, description="clips per step")
    lr: float = Field(default=0.02, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.02, ge=0, description="decoupled but for sgd")
    clip_norm: float = Field(default=5.0, gt=0, description="largest norm of the gradient")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifier")
    optimizer: Literal["muon", "adamw", "sgd"] = Field(
        default="muon",
        description="muon: orthogonalised momentum for matrices, AdamW at a tenth of the rate for "
        "the rest; sgd: momentum 0.9",
    )
    schedule: Literal["one_cycle", "steps"] = Field(
        default="one_cycle",
        description="one_cycle: warm-up, then cosine (muon: linear) to 0; steps: see `milestones`",
    )
    milestones: tuple[int, ...] = Field(
        default=(), description="steps: epochs after which the rate is multiplied by 0.1"
    )
    multipliers: Literal["none", "tsn"] = Field(
        default="none",
        description="tsn: rate x 2 for biases of convolutions, x 5 and x 10 for weight and bias "
        "of the classifier, no decay of biases and normalisation",
    )
    partial_bn: bool = Field(
        default=False, description="all batch normalisation but the first keeps its statistics"
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16: autocast")
    accumulate: int = Field(
        default=1, ge=1, description="parts that a batch is computed in, to save memory"
    )
    checkpointing: Annotated[bool, Knob()] = Field(
        default=False, description="recompute activations in the backward pass, to save memory"
    )
    compile: Annotated[bool, Knob()] = Field(default=False, description="use torch.compile")

    @model_validator(mode="after")
    def _milestones_fit(self) -> Self:
        if self.schedule == "one_cycle" and self.milestones:
            raise ValueError("milestones belong to schedule: steps")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: {list(self.milestones)} must be ascending")
        if self.milestones and not 0 < self.milestones[0] <= self.milestones[-1] < self.epochs:
            raise ValueError(
                f"milestones: {list(self.milestones)} must lie between 1 and epochs - 1 = "
                f"{self.epochs - 1}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate: {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self


class StudentConfig(Config):
    """Three branches: I-frames, motion vectors, residuals.

    `weights` names what `cmkd teacher import` brought in; without it a network starts from random
    weights, as the tiny ones do. The paper's start from ImageNet (A17).
    """

    backbone: BackboneName = Field(
        default="tiny_tsm",
        description="network of the I-frame branch, and of all branches by default",
    )
    p_backbone: BackboneName | None = Field(
        default=None, description="network of the motion and residual branches; null: `backbone`"
    )
    width: int = Field(
        default=16, ge=4, description="tiny networks: channels of the first stage; the last has 4x"
    )
    motion_size: int | None = Field(
        default=None, ge=16, description="side that motion maps are resized to; null: as they are"
    )
    residual_size: int | None = Field(
        default=None, ge=16, description="side that residuals are resized to; null: as they are"
    )
    weights: str | None = Field(
        default=None, description="id of imported weights to start from; null: random"
    )
    p_weights: str | None = Field(
        default=None, description="id of imported weights for the motion and residual branches"
    )

    @property
    def channels(self) -> int:
        """Channels of f^I, to which narrower maps of the other branches are widened."""
        return find_backbone(self.backbone).channels(self.width)

    @property
    def backbone_of_p(self) -> BackboneName:
        """Backbone of the motion and the residual branch."""
        return self.p_backbone or self.backbone


class TeacherTrainingConfig(TrainingConfig):
    """Optimisation of the teacher; a class, so that one changed key keeps the other defaults."""

    epochs: int = Field(default=20, ge=0, description="0: weights as they are, see `weights`")


class TeacherConfig(Config):
    """RGB teacher: trained once per data set, fold and draw, then frozen.

    One network gives one h_t sequence; TDN's published ensembles of two cannot (A18).
    """

    backbone: BackboneName = Field(default="tiny_tsm", description="network of the RGB teacher")
    width: int = Field(default=16, ge=4, description="tiny networks: channels of the first stage")
    weights: str | None = Field(
        default=None, description="id of imported weights to start from; null: random"
    )
    features: Literal["cached", "online"] = Field(
        default="cached",
        description="h_t of all views kept on disk, or computed in every step",
    )
    training: TeacherTrainingConfig = TeacherTrainingConfig()
    seed: int | None = Field(
        default=None,
        ge=0,
        description="draw of the teacher; null: the trial's seed, so that every replicate has a "
        "teacher of its own",
    )
    untrained: Annotated[bool, Neutral(False)] = Field(
        default=False,
        description="random weights, frozen at their initialisation, with training.epochs 0: "
        "tells knowledge of the teacher from regularisation",
    )

    @property
    def channels(self) -> int:
        """Channels of h_t."""
        return find_backbone(self.backbone).channels(self.width)

    @property
    def is_drawn(self) -> bool:
        """Whether its seed plays any part: not in imported weights that are used as they are."""
        return self.training.epochs > 0 or self.untrained

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.untrained and (self.training.epochs or self.weights is not None):
            raise ValueError(
                "untrained: true keeps random weights; set training.epochs to 0 and weights to null"
            )
        if not self.training.epochs and self.weights is None and not self.untrained:
            raise ValueError(
                "training.epochs: 0 leaves random weights; set weights, epochs or untrained: true"
            )
        return self

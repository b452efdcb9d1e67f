"""Optimisation and model sizes of students and teachers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cmkd.config.base import Config

BackboneName = Literal["tiny_tsm", "tiny_tdn"]


class TrainingConfig(Config):
    """AdamW under a one-cycle schedule; the same for students and teachers."""

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=2)
    lr: float = Field(default=3e-3, gt=0, description="peak learning rate of the one-cycle")
    weight_decay: float = Field(default=0.02, ge=0)
    clip_norm: float = Field(default=5.0, gt=0)
    dropout: float = Field(default=0.3, ge=0, lt=1)


class StudentConfig(Config):
    """Three branches of one backbone family: I-frames without, MV and residual with shift.

    The tiny families start from random weights; the paper's start from ImageNet (A17).
    """

    backbone: BackboneName = "tiny_tsm"
    width: int = Field(default=16, ge=4, description="channels of the first stage; the last has 4x")


class TeacherTrainingConfig(TrainingConfig):
    """A class of its own, so that setting one key of it leaves the teacher's other defaults."""

    epochs: int = Field(default=25, ge=1)


class TeacherConfig(Config):
    """The RGB teacher: trained once per data set and fold, then frozen.

    One network gives one h_t sequence; TDN's published ensembles of two cannot (A18).
    """

    backbone: BackboneName = "tiny_tdn"
    width: int = Field(default=16, ge=4)
    training: TeacherTrainingConfig = TeacherTrainingConfig()
    seed: int = Field(default=0, ge=0)

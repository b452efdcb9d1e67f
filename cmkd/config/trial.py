"""One trial: everything that decides its result, and the id made of it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cmkd.config.base import Config, content_id
from cmkd.config.data import InputConfig
from cmkd.config.method import MethodConfig
from cmkd.config.training import StudentConfig, TeacherConfig, TrainingConfig

PROTOCOL = 1
"""Raised when training, reading or selection change what equal configs produce."""

SELECTION_RULE = "epoch of best validation accuracy; of equal ones, that of least validation loss"


class Setting(Config):
    """What one arm of a sweep is, whatever the data set, fold and seed."""

    model: Literal["student", "motion_svm"] = Field(
        default="student", description="motion_svm: a reference on motion vectors alone"
    )
    method: MethodConfig = MethodConfig()
    student: StudentConfig = StudentConfig()
    training: TrainingConfig = TrainingConfig()
    inputs: InputConfig = InputConfig()
    teacher: TeacherConfig = TeacherConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.model != "student":
            return self
        if self.method.lambda_1 and self.student.width != self.teacher.width:
            raise ValueError(
                f"student.width {self.student.width} and teacher.width {self.teacher.width} "
                "differ, but Eq. (4) compares their maps; make them equal or set lambda_1 to 0.0"
            )
        if self.method.decoder and (4 * self.student.width) % self.method.heads:
            raise ValueError(
                f"method.heads {self.method.heads} does not divide the {4 * self.student.width} "
                f"channels of student.width {self.student.width}"
            )
        return self

    @property
    def id(self) -> str:
        """Content id shared by all seeds, folds and data sets of this setting."""
        return content_id("setting", PROTOCOL, self)


class TrialConfig(Config):
    """One training of one student."""

    setting: Setting
    data: str = Field(description="name of the data set")
    data_id: str = Field(description="`DatasetInfo.id`")
    fold: int = Field(ge=0)
    seed: int = Field(ge=0)

    @property
    def teacher_id(self) -> str:
        """Identity of the teacher: its recipe, the clips and the views it was trained on."""
        inputs = {"num_frames": self.setting.inputs.num_frames}
        return content_id(
            "teacher", PROTOCOL, self.setting.teacher, inputs, self.data_id, self.fold
        )

    @property
    def id(self) -> str:
        """Content id of the trial; includes the data's and the teacher's identity."""
        return content_id(
            "trial", PROTOCOL, self.setting, self.teacher_id, self.data_id, self.fold, self.seed
        )

"""Trial: everything that decides its result, and its id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, Self

from pydantic import Field, model_validator

from cmkd.config.backbones import find_backbone
from cmkd.config.base import Config, ContentIds, content_id
from cmkd.config.data import InputConfig, ReaderConfig
from cmkd.config.method import MethodConfig
from cmkd.config.training import StudentConfig, TeacherConfig, TrainingConfig

PROTOCOL = 3
"""Version of the code's behaviour, part of the id of every setting, trial and teacher.

Raise it by one in the commit that makes equal configs give other results: a change of training,
reading, initialisation or selection. All ids change then. Finished trials stay in the store, count
no more, and the next sweep trains all of them again. Do not raise it for changes that move results
by rounding alone; finished trials then count as before, and the commit in the tag `git_commit` of
each run tells them apart. A new field with a `Neutral` value needs no new version either.

3: a teacher per replicate; losses on a common scale, literal attention and no gate by default;
tiny networks of one block that repeat end frames and start from averaged pixels; Muon.
"""

SELECTION_RULE = "epoch of best validation accuracy; of equal ones, that of least validation loss"


class Setting(Config):
    """Settings of an arm of a sweep, for all data sets, folds and seeds."""

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
        student, teacher = self.student.channels, self.teacher.channels
        if self.method.lambda_1 and student != teacher:
            raise ValueError(
                f"the student's {student} channels (student.backbone, student.width) and the "
                f"teacher's {teacher} differ, but Eq. (4) compares their maps; make them equal or "
                "set lambda_1 to 0.0"
            )
        strides = {
            name: find_backbone(name).stride_of()
            for name in (self.student.backbone, self.teacher.backbone)
        }
        if self.method.lambda_1 and len(set(strides.values())) > 1:
            sizes = " and ".join(f"{name} at 1/{stride}" for name, stride in strides.items())
            raise ValueError(
                f"student.backbone and teacher.backbone end on maps of different size ({sizes} of "
                "the picture), but Eq. (4) compares them; take two of one stride or set lambda_1 "
                "to 0.0"
            )
        if self.method.decoder and (width := self.method.width or student) % self.method.heads:
            raise ValueError(
                f"method.heads {self.method.heads} does not divide the {width} channels inside "
                "the pseudo-decoder (method.width, else those of the student's maps)"
            )
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must exist before a trial of this setting is trained."""
        return self.model == "student" and self.method.needs_teacher

    @property
    def raw_segment(self) -> int:
        """Consecutive decoded frames that the teacher reads per sampled P-frame."""
        return find_backbone(self.teacher.backbone).segment

    @property
    def compressed_segment(self) -> int:
        """Consecutive motion maps and residuals that the student reads per sampled P-frame."""
        return find_backbone(self.student.backbone_of_p).segment

    @property
    def reading(self) -> ReaderConfig:
        """Everything read of a clip."""
        return ReaderConfig(
            inputs=self.inputs,
            raw_segment=self.raw_segment,
            compressed_segment=self.compressed_segment,
        )

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
    def teacher_seed(self) -> int:
        """Draw of the teacher: fixed by its recipe, else the seed of the trial."""
        fixed = self.setting.teacher.seed
        return self.seed if fixed is None else fixed

    @property
    def teacher_id(self) -> str:
        """Identity of the teacher: its recipe, the clips and views it was trained on, its draw."""
        ids = _teacher_ids(self.setting.teacher, self.setting.inputs, self.data_id, self.fold)
        # Without training or random weights there is nothing to draw.
        return ids(self.teacher_seed if self.setting.teacher.is_drawn else "imported")

    @property
    def id(self) -> str:
        """Content id of the trial; includes the data's and the teacher's identity."""
        ((own, _),) = self.by_seed([self.seed])
        return own

    def by_seed(self, seeds: Iterable[int]) -> Iterator[tuple[str, TrialConfig]]:
        """(id, trial) for each of `seeds`, otherwise the same trial."""
        ids = ContentIds("trial", PROTOCOL, self.setting, self.data_id, self.fold)
        recipe = self.setting.teacher
        teacher = self.teacher_id
        draws = _teacher_ids(recipe, self.setting.inputs, self.data_id, self.fold)
        follows = recipe.is_drawn and recipe.seed is None
        for seed in seeds:
            replicate = self.model_copy(update={"seed": seed})
            yield ids(draws(seed) if follows else teacher, seed), replicate


# The trials of a sweep, of which there may be 100,000, share a few recipes.
@lru_cache(maxsize=4096)
def _teacher_ids(
    teacher: TeacherConfig, inputs: InputConfig, data_id: str, fold: int
) -> ContentIds:
    recipe, views = teacher.identity(), inputs.identity()
    # A teacher sees no motion vectors, and what is kept of its features does not change it.
    del recipe["features"], recipe["seed"], views["motion"]
    return ContentIds("teacher", PROTOCOL, recipe, views, data_id, fold)

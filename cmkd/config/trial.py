"""Setting of an arm, trial of one seed and fold, and their ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cmkd.config.backbones import BACKBONES, BackboneName, find_backbone
from cmkd.config.base import Config, ContentIds, Knob, Neutral, content_id, nested
from cmkd.config.data import InputConfig, ReaderConfig
from cmkd.config.method import MethodConfig
from cmkd.config.yaml_loader import read_yaml

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
LAST_EPOCH_RULE = "the last one, as no clips are kept for validation"


class TrainingConfig(Config):
    """Optimisation of a network; the same fields for students and teachers.

    The defaults suit the tiny networks: Muon under a one-cycle schedule. Published schedules of
    the full-size ones are in ``presets.yaml``.
    """

    epochs: int = Field(10, ge=1)
    """Passes over the training clips."""
    batch_size: int = Field(16, ge=2)
    """Clips per step."""
    lr: float = Field(0.02, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.02, ge=0)
    """Decoupled but for sgd."""
    clip_norm: float = Field(5.0, gt=0)
    """Largest norm of the gradient."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Before the classifier."""
    optimizer: Literal["muon", "adamw", "sgd"] = "muon"
    """muon: orthogonalised momentum for matrices, AdamW at a tenth of the rate for the rest; sgd:
    momentum 0.9."""
    schedule: Literal["one_cycle", "steps"] = "one_cycle"
    """one_cycle: warm-up, then cosine (muon: linear) to 0; steps: see `milestones`."""
    milestones: tuple[int, ...] = ()
    """steps: epochs after which the rate is multiplied by 0.1."""
    multipliers: Literal["none", "tsn"] = "none"
    """tsn: rate x 2 for biases of convolutions, x 5 and x 10 for weight and bias of the classifier,
    no decay of biases and normalisation."""
    partial_bn: bool = False
    """All batch normalisation but the first keeps its statistics."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast."""
    accumulate: int = Field(1, ge=1)
    """Parts that a batch is computed in, to save memory."""
    checkpointing: Annotated[bool, Knob()] = False
    """Recompute activations in the backward pass, to save memory."""
    compile: Annotated[bool, Knob()] = False
    """Use torch.compile."""

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


FrozenStages = Annotated[int, Field(ge=0), Neutral(0)]


def require_stages(backbone: str, frozen: int, weights: str | None) -> None:
    """Check that the first `frozen` stages of a backbone can stay as in `weights`.

    Raises:
        ValueError: the backbone has fewer, or there are no weights.
    """
    stages = find_backbone(backbone).stages
    if frozen > stages:
        able = [f"{entry.name} ({entry.stages})" for entry in BACKBONES.values() if entry.stages]
        raise ValueError(
            f"frozen: {frozen} is more than the {stages} stages of {backbone} that can be frozen; "
            f"known with such stages: {', '.join(able)}"
        )
    if frozen and weights is None:
        raise ValueError(f"frozen: {frozen} stages would keep random weights; set weights")


class StudentConfig(Config):
    """Three branches: I-frames, motion vectors, residuals.

    `weights` names what `cmkd teacher import` brought in; without it a network starts from random
    weights, as the tiny ones do. The paper's start from ImageNet (A17).
    """

    backbone: BackboneName = "tiny_tsm"
    """Network of the I-frame branch, and of all branches by default."""
    p_backbone: BackboneName | None = None
    """Network of the motion and residual branches; null: `backbone`."""
    width: int = Field(16, ge=4)
    """Tiny networks: channels of the first stage; the last has 4x."""
    motion_size: int | None = Field(None, ge=16)
    """Side that motion maps are resized to; null: as they are."""
    residual_size: int | None = Field(None, ge=16)
    """Side that residuals are resized to; null: as they are."""
    weights: str | None = None
    """Id of imported weights to start from; null: random."""
    p_weights: str | None = None
    """Id of imported weights for the motion and residual branches."""
    frozen: FrozenStages = 0
    """First stages of the I-frame branch that stay as in `weights`, which makes training cheap."""

    @model_validator(mode="after")
    def _can_freeze(self) -> Self:
        require_stages(self.backbone, self.frozen, self.weights)
        return self

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

    epochs: int = Field(20, ge=0)
    """0: weights as they are, see `weights`."""


class TeacherConfig(Config):
    """RGB teacher: trained once per data set, fold and draw, then frozen.

    One network gives one h_t sequence; TDN's published ensembles of two cannot (A18).
    """

    backbone: BackboneName = "tiny_tsm"
    """Network of the RGB teacher."""
    width: int = Field(16, ge=4)
    """Tiny networks: channels of the first stage."""
    weights: str | None = None
    """Id of imported weights to start from; null: random."""
    frozen: FrozenStages = 0
    """First stages that stay as in `weights`, which makes training cheap."""
    features: Literal["cached", "online"] = "cached"
    """h_t of all views kept on disk, or computed in every step."""
    training: TeacherTrainingConfig = TeacherTrainingConfig()
    seed: int | None = Field(None, ge=0)
    """Draw of the teacher; null: the trial's seed, so that every replicate has a teacher of its
    own."""
    untrained: Annotated[bool, Neutral(False)] = False
    """Random weights, frozen at their initialisation, with training.epochs 0: tells knowledge of
    the teacher from regularisation."""

    @property
    def channels(self) -> int:
        """Channels of h_t."""
        return find_backbone(self.backbone).channels(self.width)

    @property
    def is_drawn(self) -> bool:
        """Whether its seed plays any part: not in imported weights that are used as they are."""
        return self.training.epochs > 0 or self.untrained

    @model_validator(mode="after")
    def _can_freeze(self) -> Self:
        require_stages(self.backbone, self.frozen, self.weights)
        return self

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


class Setting(Config):
    """Settings of an arm of a sweep, for all data sets, folds and seeds."""

    model: Literal["student", "motion_svm", "frame_probe"] = "student"
    """References: motion_svm on motion vectors alone; frame_probe, linear, on one RGB frame that
    the teacher's backbone sees with `teacher.weights` as they were imported."""
    method: MethodConfig = MethodConfig()
    student: StudentConfig = StudentConfig()
    training: TrainingConfig = TrainingConfig()
    inputs: InputConfig = InputConfig()
    teacher: TeacherConfig = TeacherConfig()

    @model_validator(mode="after")
    def _fresh_views_are_seen_once(self) -> Self:
        if self.inputs.views == "fresh":
            if self.model != "student":
                raise ValueError(f"model {self.model} is fitted on inputs.views: prepared")
            if self.needs_teacher and self.teacher.features == "cached":
                raise ValueError(
                    "teacher.features: cached keeps what a teacher sees in prepared views; with "
                    "inputs.views: fresh set it to online"
                )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.model == "frame_probe" and self.teacher.weights is None:
            raise ValueError("model frame_probe needs imported weights; set teacher.weights")
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


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Presets of ``presets.yaml`` by name: dotted keys of `Setting` -> values, as in `base`."""
    parts = read_yaml(Path(__file__).with_name("presets.yaml")).data
    found = {}
    for student, recipe in parts["students"].items():
        family, _, variant = student.partition("-")
        for protocol, schedule in parts["protocols"].items():
            if protocol.partition("-")[0] == family:
                dotted = {**parts["common"], **recipe, **schedule}
                training = {**parts["common"]["training"], **dotted.pop("training")}
                for prefix in ("training", "teacher.training"):
                    dotted |= {f"{prefix}.{key}": value for key, value in training.items()}
                found[f"{protocol}-{variant}".rstrip("-")] = dotted
    return found


def preset(name: str) -> Setting:
    """Setting of a preset; KeyError where `presets` has none of this name."""
    return Setting.model_validate_json(json.dumps(nested(presets()[name])))


class TrialConfig(Config):
    """One training of one student."""

    setting: Setting
    data: str
    """Name of the data set."""
    data_id: str
    """`DatasetInfo.id`."""
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

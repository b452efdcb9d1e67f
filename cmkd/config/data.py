"""Encoding, views, splits and metadata of a data set; all of it enters the data set's id."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cmkd.config.base import Config, Knob, Neutral, content_id


class EncodingConfig(Config):
    """MPEG-4 Part 2 without B-frames, the codec of the paper's Sec. 3.1."""

    width: int = Field(320, ge=16, le=4096, multiple_of=16)
    """Pixels of a stored picture."""
    height: int = Field(256, ge=16, le=4096, multiple_of=16)
    """Pixels of a stored picture."""
    gop: int = Field(12, ge=2, le=600)
    """Frames from one I-frame to the next."""
    qscale: int = Field(2, ge=1, le=31)
    """MPEG-4 quantiser; 1 is best."""
    num_frames: int | None = Field(None, ge=2)
    """Index-uniform resampling to this length; None keeps all."""


class ViewsConfig(Config):
    """Fixed augmented views of a training clip; view 0 is the clip itself, or its centre.

    Views are fixed so that the frozen teacher's features are computed once per view. Every
    modality and the teacher's frames of one view share one geometric transform.

    With `crop`, view 0 and every clip of validation and test are cut from the centre of the stored
    picture. The other views are cut by TSM's multi-scale rule and resized to the crop: sides of
    {1, .875, .75, .66} of the shorter side, at most one step apart, at one of 13 positions. It
    replaces `shift`, `scale` and `rotation`; flips and phases stay.
    """

    count: int = Field(1, ge=1, le=100)
    """Views per training clip."""
    flip: Literal["none", "horizontal", "both"] = "none"
    """Mirror axes; labels follow `flip_labels` of the data set."""
    shift: float = Field(0.0, ge=0, le=0.5)
    """Largest shift / frame size."""
    scale: float = Field(0.0, ge=0, lt=0.5)
    """Largest relative zoom."""
    rotation: float = Field(0.0, ge=0, le=45)
    """Largest angle in degrees."""
    phase: bool = False
    """Vary the sampled frame inside its segment."""
    crop: int | None = Field(None, ge=16, multiple_of=16)
    """Side of the square that every view is cut to; None keeps the whole picture."""

    @model_validator(mode="after")
    def _one_geometric_rule(self) -> Self:
        given = [name for name in ("shift", "scale", "rotation") if getattr(self, name)]
        if self.crop is not None and given:
            raise ValueError(
                f"crop: {self.crop} cuts views by a rule of its own; leave out {', '.join(given)}"
            )
        return self

    def fits(self, encoding: EncodingConfig) -> bool:
        """True if the crop is not larger than the pictures."""
        return self.crop is None or self.crop <= min(encoding.width, encoding.height)


class SplitConfig(Config):
    """Rule that makes training, validation and test parts.

    ``given`` follows the manifest's ``split`` column, a word for each fold; where a fold marks no
    clip for validation, `seed` draws groups of its training part. ``folds`` are k group-disjoint,
    label-stratified folds; ``leave_one_group_out`` makes one fold per group. Clips of the groups
    in `train_only` (recordings of mixed origin, say) never leave the training part.
    """

    rule: Literal["given", "folds", "leave_one_group_out"] = "folds"
    """By the manifest, k group-disjoint folds, or one fold per group."""
    folds: int = Field(5, ge=2, le=100)
    """k of `rule: folds`."""
    train_only: tuple[str, ...] = ()
    """Groups that are never validation or test."""
    seed: int = Field(0, ge=0)
    """Draw of the folds and validation groups."""
    validation: Annotated[bool, Neutral(True)] = True
    """Whether clips are set aside for validation where the manifest marks none. Without such clips
    all others train, as in published protocols, and the last epoch is the selected one."""


class OfficialPart(Config):
    """Published data set as found on disk, matched with its official annotation files."""

    name: str = Field(min_length=1, max_length=64)
    """As its paper writes it."""
    split: str = Field(pattern="^(all|[123]|val|test)$")
    """``all``: three official splits as three folds; ``val``, ``test``: what tests."""
    clips: int = Field(ge=1)
    """Clips found on disk."""
    annotated: int = Field(ge=1)
    """Clips that the annotation files list for this split."""
    complete: bool
    """Every clip of the published set is listed and found."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.clips > self.annotated or (self.complete and self.clips < self.annotated):
            raise ValueError(
                f"complete: {self.complete} does not go with {self.clips} of {self.annotated} clips"
            )
        return self

    @property
    def words(self) -> str:
        """``UCF-101, official splits 1, 2 and 3, complete (13,320 clips)``."""
        which = {
            "all": "official splits 1, 2 and 3",
            "val": "official validation part as test",
            "test": "official test part",
        }.get(self.split, f"official split {self.split}")
        if self.complete:
            return f"{self.name}, {which}, complete ({self.clips:,} clips)"
        of = f"{self.clips:,} of the {self.annotated:,} clips of these annotation files"
        return f"{self.name}, {which}, a SUBSET ({of})"


class DatasetInfo(Config):
    """Metadata of a data set on disk (``dataset.json``)."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    kind: Literal["embedded", "folder", "official"]
    classes: tuple[str, ...] = Field(min_length=2)
    encoding: EncodingConfig
    views: ViewsConfig
    split: SplitConfig
    flip_labels: dict[str, dict[str, str]] = Field(default_factory=dict)
    """axis ('horizontal' or 'vertical') -> {class: class of its mirror image}."""
    digest: str
    """SHA-256 over the manifest: paths, labels, groups, content."""
    official: Annotated[OfficialPart | None, Neutral(None)] = None
    """Published set, of kind ``official`` only."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "official") != (self.official is not None):
            raise ValueError(f"official: does not go with kind {self.kind!r}")
        if not self.views.fits(self.encoding):
            raise ValueError(
                f"views.crop: {self.views.crop} is more than a side of "
                f"{self.encoding.width}x{self.encoding.height} pictures"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: {sorted(self.classes)} names one of them twice")
        for axis, swap in self.flip_labels.items():
            if axis not in ("horizontal", "vertical"):
                raise ValueError(f"flip_labels: axis {axis!r} is neither horizontal nor vertical")
            if unknown := {*swap, *swap.values()} - {*self.classes}:
                raise ValueError(f"flip_labels.{axis}: unknown classes {sorted(unknown)}")
            for label, mirrored in swap.items():
                if swap.get(mirrored, mirrored) != label:
                    raise ValueError(
                        f"flip_labels.{axis}: {label!r} turns into {mirrored!r} but not back"
                    )
        return self

    @property
    def id(self) -> str:
        """Content id: changes with any clip, label, group, view or split rule."""
        return content_id("dataset", self)


class InputConfig(Config):
    """Sampling of a clip, in training and in tests."""

    num_frames: int = Field(8, ge=2, le=64)
    """T, P-frames sampled per clip."""
    motion: Literal["accumulated", "per_frame"] = "accumulated"
    """Vectors traced back to the I-frame, or of one frame."""
    num_gops: int | None = Field(None, ge=1)
    """GOPs sampled evenly, with num_frames / num_gops P-frames of each; None samples P-frames
    evenly over the clip, whatever their GOPs."""
    test_clips: int = Field(1, ge=1, le=10)
    """Temporal samplings per test clip, by phases spread evenly; scores averaged."""
    test_crops: Literal[1, 3] = 1
    """Crops per test clip, scores averaged; 3: both ends of the longer side as well as the centre,
    for data sets with a crop."""
    views: Annotated[Literal["prepared", "fresh"], Neutral("prepared")] = "prepared"
    """prepared: the data set's views, decoded once into the cache; fresh: clips are decoded while
    they train, with a new crop, flip and phase in every epoch, and nothing is written."""
    loaders: Annotated[int | None, Knob()] = Field(None, ge=0)
    """Processes that decode fresh views for one trial; null: 8 for a GPU, else 1; 0: none."""

    @model_validator(mode="after")
    def _gops_share_frames(self) -> Self:
        if self.num_gops is not None and self.num_frames % self.num_gops:
            raise ValueError(
                f"num_gops: {self.num_gops} does not divide num_frames {self.num_frames}"
            )
        return self


class ReaderConfig(Config):
    """Everything read of a clip; with the data set it decides the decoded arrays."""

    inputs: InputConfig = InputConfig()
    raw_segment: int = Field(1, ge=1)
    """Consecutive decoded frames per sampled P-frame, odd."""
    compressed_segment: int = Field(1, ge=1)
    """Consecutive motion maps and residuals per sampled P-frame, odd."""

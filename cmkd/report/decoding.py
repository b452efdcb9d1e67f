"""What it costs to get at a clip's inputs, as ``cmkd cost --decoding`` measured it: the file.

A JSON object with the keys of `Decoding`; its ``ways`` have those of `WayCost`. No number in it is
the paper's, nor made by a trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cmkd.errors import InputError

FILE = "decoding.json"

Way = Literal["rgb", "half", "quarter", "compressed", "motion", "iframes"]

NAMES: Mapping[Way, str] = {
    "rgb": "full decoding, sampled frames to RGB",
    "half": "the same at half the sides (lowres=1)",
    "quarter": "the same at a quarter of the sides (lowres=2)",
    "compressed": "ours: I-frames, motion, residuals",
    "motion": "motion alone",
    "iframes": "I-frames alone",
}
"""In the order in which they are shown."""


class WayCost(BaseModel):
    """Means per clip of one way; `ratio` is to ``rgb`` of the same clip, median over clips."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    way: Way
    ms: float = Field(gt=0, description="milliseconds of CPU on one thread")
    ms_low: float = Field(gt=0, description="a quarter of the clips takes less")
    ms_high: float = Field(gt=0, description="a quarter of the clips takes more")
    ratio: float = Field(gt=0)
    frames: float = Field(gt=0, description="that are decoded")
    bytes_read: float = Field(gt=0, description="compressed, of the frames that are decoded")
    bytes_kept: float = Field(gt=0, description="of the arrays that come out")
    error_intra: float | None = Field(
        ge=0, description="grey levels from whole I-frames averaged to the size that comes out"
    )
    error: float | None = Field(ge=0, description="the same of the sampled P-frames")


class Decoding(BaseModel):
    """One measurement."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    data: str = Field(min_length=1)
    data_id: str = Field(min_length=1)
    data_kind: str = Field(min_length=1)
    clips: int = Field(ge=1, description="that were measured")
    of_clips: int = Field(ge=1, description="that the data set has")
    length: float = Field(gt=0, description="mean frames of a measured clip")
    num_frames: int = Field(ge=2, description="sampled per clip")
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    gop: int = Field(ge=1)
    platform: str = Field(min_length=1)
    version: str = Field(min_length=1, description="what measured it")
    ways: tuple[WayCost, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if [one.way for one in self.ways] != list(NAMES):
            raise ValueError(f"ways must be {', '.join(NAMES)}, once and in this order")
        return self


def read_decoding(path: Path) -> Decoding | None:
    """The measurement in the file `path`; None where there is no such file.

    Raises:
        InputError: it cannot be read, or is no such measurement.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return Decoding.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(map(str, first["loc"]))
        where = f" at {keys}" if keys else ""
        raise InputError(
            f"{path}: no costs of decoding{where}: {first['msg'].removeprefix('Value error, ')}; "
            "measure them anew with cmkd cost --decoding, or delete the file"
        ) from None

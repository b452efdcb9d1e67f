"""The artifact ``inside.json`` of a trial: gate, motion and temporal graphs of a few test clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cmkd.errors import InputError

FILE = "inside.json"

Graphs = Mapping[int, np.ndarray]
"""TG_1 to TG_3 of a clip by their numbers: mean squared edges, Float "T T"."""


@dataclass(frozen=True)
class InsideClip:
    """One clip of T frames.

    Attributes:
        motion: Float "T", mean length of a frame's accumulated motion vectors in pixels.
        alpha: Float "T", weights of the gate; None without one.
        teacher: graphs of the RGB teacher; None where the student has none.
    """

    clip: str
    label: str
    motion: np.ndarray
    alpha: np.ndarray | None
    student: Graphs
    teacher: Graphs | None


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _Clip(_Model):
    clip: str
    label: str
    motion: list[float]
    alpha: list[float] | None
    student: dict[int, list[list[float]]]
    teacher: dict[int, list[list[float]]] | None


class _File(_Model):
    version: Literal[1] = Field(alias="schema")
    clips: list[_Clip]


def parse_inside(text: str, owner: str) -> tuple[InsideClip, ...]:
    """Read the JSON `text` of `owner`, a run or a trial by its id.

    Raises:
        InputError: another schema, a field that is missing, or values that are not of T frames.
    """
    try:
        file = _File.model_validate_json(text)
        return tuple(_clip(one) for one in file.clips)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:
        reason = str(error)
    raise InputError(
        f"{owner}: {FILE} cannot be used ({reason}); delete that run and train it again"
    )


def _clip(one: _Clip) -> InsideClip:
    frames = len(one.motion)
    if one.alpha is not None and len(one.alpha) != frames:
        raise ValueError(f"clip {one.clip!r}: {len(one.alpha)} weights for {frames} frames")
    return InsideClip(
        clip=one.clip,
        label=one.label,
        motion=np.array(one.motion),
        alpha=None if one.alpha is None else np.array(one.alpha),
        student=_graphs(one.student, one.clip, frames),
        teacher=None if one.teacher is None else _graphs(one.teacher, one.clip, frames),
    )


def _graphs(graphs: Mapping[int, list[list[float]]], clip: str, frames: int) -> Graphs:
    for number, rows in graphs.items():
        if {len(rows), *map(len, rows)} != {frames}:
            raise ValueError(f"clip {clip!r}: graph {number} is not {frames} x {frames}")
    return {number: np.array(rows) for number, rows in sorted(graphs.items())}

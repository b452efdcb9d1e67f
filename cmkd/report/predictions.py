"""Per-clip artifacts of a run: predictions, and gate and graphs of single clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from operator import itemgetter
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cmkd.errors import InputError

COLUMNS = ("clip", "group", "label", "selected", "last")
_MOST_LINES = 500_000
"""Cached lines of a test set, some 100 MB."""


@dataclass(frozen=True)
class Predictions:
    """Test predictions of a trial, in order of clip names.

    Attributes:
        selected: Bool "N", correct at the selected epoch.
        last: Bool "N", correct at the last epoch.
        classes: names in the file.
        said: Int "N", predicted class at the selected epoch, as an index into `classes`.
    """

    clips: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...]
    selected: np.ndarray
    last: np.ndarray
    classes: tuple[str, ...]
    said: np.ndarray


def parse_predictions(text: str, run_id: str) -> Predictions:
    """Read the CSV text of run `run_id`.

    Raises:
        InputError: another header, no clip, a clip given twice, or a line with cells missing.
    """
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise _bad(run_id, f"it is not CSV ({error})") from None
    except ValueError:
        raise _bad(run_id, "its header is missing") from None
    if tuple(header) != COLUMNS:
        raise _bad(run_id, f"its header is {','.join(header)}, not {','.join(COLUMNS)}")
    if not rows:
        raise _bad(run_id, "it lists no clip")
    if any(len(row) != len(COLUMNS) for row in rows):
        number = next(i for i, row in enumerate(rows, start=2) if len(row) != len(COLUMNS))
        raise _bad(run_id, f"row {number} does not have {len(COLUMNS)} cells")
    rows.sort(key=itemgetter(0))
    clips, groups, labels, selected, last = zip(*rows, strict=True)
    if len(set(clips)) < len(clips):
        twice = next(one for one, other in pairwise(clips) if one == other)
        raise _bad(run_id, f"it lists clip {twice!r} twice")
    classes = tuple(sorted({*labels, *selected}))
    index = {name: number for number, name in enumerate(classes)}
    return Predictions(
        clips,
        groups,
        labels,
        np.array([label == said for label, said in zip(labels, selected, strict=True)]),
        np.array([label == said for label, said in zip(labels, last, strict=True)]),
        classes,
        np.array([index[said] for said in selected], np.int16),
    )


class PredictionsReader:
    """Reader for many trials; common parts of their files are parsed and kept once."""

    def __init__(self) -> None:
        self._known: list[_Test] = []

    def parse(self, text: str, run_id: str) -> Predictions:
        """As `parse_predictions`, with its result and errors."""
        lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        for test in self._known:
            found = test.read(lines)
            if found is not None:
                return found
        found = parse_predictions(text, run_id)
        if '"' not in text and len(lines) == 1 + len(found.clips):
            test = _Test.of(found, lines)
            if all(test.beginnings != known.beginnings for known in self._known):
                self._known.append(test)
        return found


@dataclass(frozen=True)
class _Test:
    """Common part of the files of trials with the same test clips.

    Attributes:
        beginnings: by line, clip, group and label.
        ends: text of two classes -> said * K + last for K `classes`.
        order: sorts the lines by clip.
        truth: labels in that order, as indices into `classes`.
        known: cached lines -> place * K * K + number of the end.
    """

    shared: Predictions
    header: str
    beginnings: list[str]
    ends: Mapping[str, int]
    order: np.ndarray
    classes: tuple[str, ...]
    truth: np.ndarray
    known: dict[str, int]

    @classmethod
    def of(cls, found: Predictions, lines: list[str]) -> _Test:
        beginnings = [line.rsplit(",", 2)[0] for line in lines[1:]]
        clips = [line.partition(",")[0] for line in beginnings]
        classes = tuple(sorted(set(found.labels)))
        index = {name: number for number, name in enumerate(classes)}
        return cls(
            shared=found,
            header=lines[0],
            beginnings=beginnings,
            ends={f",{said},{last}": i for i, (said, last) in enumerate(product(classes, classes))},
            order=np.array(sorted(range(len(clips)), key=clips.__getitem__)),
            classes=classes,
            truth=np.array([index[label] for label in found.labels], np.int16),
            known={},
        )

    def read(self, lines: list[str]) -> Predictions | None:
        """Predictions; None for other clips, or a predicted class without a clip."""
        header, *rows = lines
        if header != self.header or len(rows) != len(self.beginnings):
            return None
        codes = []
        for place, (row, code) in enumerate(zip(rows, map(self.known.get, rows), strict=True)):
            if code is None and (code := self._learn(place, row)) is None:
                return None
            codes.append(code)
        places, numbers = np.divmod(np.array(codes), len(self.ends))
        if not np.array_equal(places, np.arange(len(rows))):
            return None
        said, last = np.divmod(numbers[self.order], len(self.classes))
        one = self.shared
        return Predictions(
            one.clips,
            one.groups,
            one.labels,
            said == self.truth,
            last == self.truth,
            self.classes,
            said.astype(np.int16),
        )

    def _learn(self, place: int, row: str) -> int | None:
        beginning = self.beginnings[place]
        number = self.ends.get(row.removeprefix(beginning)) if row.startswith(beginning) else None
        if number is None:
            return None
        code = place * len(self.ends) + number
        if len(self.known) < _MOST_LINES:
            self.known[row] = code
        return code


def _bad(run_id: str, what: str) -> InputError:
    return InputError(
        f"run {run_id}: predictions.csv cannot be used: {what}; delete that run and train it again"
    )


FILE = "inside.json"

Graphs = Mapping[int, np.ndarray]
"""TG_1 to TG_3 of a clip by their numbers: mean squared edges, Float "T T"."""


@dataclass(frozen=True)
class ClipDiagnostics:
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


def parse_diagnostics(text: str, owner: str) -> tuple[ClipDiagnostics, ...]:
    """Read the JSON `text` of `owner`, a run or a trial by its id.

    Raises:
        InputError: another schema, a field that is missing, or values that are not of T frames.
    """
    try:
        file = _File.model_validate_json(text)
        return tuple(_clip(clip) for clip in file.clips)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:
        reason = str(error)
    raise InputError(
        f"{owner}: {FILE} cannot be used ({reason}); delete that run and train it again"
    )


def _clip(clip: _Clip) -> ClipDiagnostics:
    frames = len(clip.motion)
    if clip.alpha is not None and len(clip.alpha) != frames:
        raise ValueError(f"clip {clip.clip!r}: {len(clip.alpha)} weights for {frames} frames")
    return ClipDiagnostics(
        clip=clip.clip,
        label=clip.label,
        motion=np.array(clip.motion),
        alpha=None if clip.alpha is None else np.array(clip.alpha),
        student=_graphs(clip.student, clip.clip, frames),
        teacher=None if clip.teacher is None else _graphs(clip.teacher, clip.clip, frames),
    )


def _graphs(graphs: Mapping[int, list[list[float]]], clip: str, frames: int) -> Graphs:
    for number, rows in graphs.items():
        if {len(rows), *map(len, rows)} != {frames}:
            raise ValueError(f"clip {clip!r}: graph {number} is not {frames} x {frames}")
    return {number: np.array(rows) for number, rows in sorted(graphs.items())}

"""Per-clip artifacts of a run: predictions, and gate and graphs of single clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, pairwise
from operator import eq
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cmkd.errors import InputError
from cmkd.results import PREDICTIONS as COLUMNS
from cmkd.results import RANK


@dataclass(frozen=True)
class Predictions:
    """Test predictions of a trial, in order of clip names.

    Attributes:
        selected: Bool "N", correct at the selected epoch.
        last: Bool "N", correct at the last epoch.
        classes: names in the file.
        said: Int "N", predicted class at the selected epoch, as an index into `classes`.
        order: Int "N", place of each clip in the file.
        top5: Bool "N", correct class among the five likeliest at the selected epoch; None where it
            was not kept, or there are at most five.
    """

    clips: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...]
    selected: np.ndarray
    last: np.ndarray
    classes: tuple[str, ...]
    said: np.ndarray
    order: np.ndarray
    top5: np.ndarray | None = None

    @property
    def right(self) -> dict[str, np.ndarray]:
        """Correct clips by metric of the run."""
        top5 = {} if self.top5 is None else {"test_top5": self.top5}
        return {"test_acc": self.selected, "test_acc_last": self.last, **top5}

    @cached_property
    def _listed(self) -> tuple[Sequence[str], ...]:
        """Clips, groups and labels as the file lists them."""
        places = np.argsort(self.order).tolist()
        columns = self.clips, self.groups, self.labels
        return tuple([column[at] for at in places] for column in columns)

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(sorted(set(self.labels)))}

    @cached_property
    def _numbers(self) -> np.ndarray:
        return np.fromiter(map(self._index.__getitem__, self.labels), np.int16, len(self.labels))

    def _alike(self, columns: Sequence[Sequence[str]], run_id: str) -> Self | None:
        """Predictions of the same clips; None for others, or with a class that no clip has."""
        *listed, selected, last = columns[: len(COLUMNS)]
        if tuple(listed) != self._listed:
            return None
        try:
            said, ended = (
                np.fromiter(map(self._index.__getitem__, names), np.int16, len(names))[self.order]
                for names in (selected, last)
            )
        except KeyError:
            return None
        top5 = _top5(columns, run_id)
        return replace(
            self,
            selected=said == self._numbers,
            last=ended == self._numbers,
            classes=tuple(self._index),
            said=said,
            top5=None if top5 is None else top5[self.order],
        )


def parse_predictions(text: str, run_id: str, like: Predictions | None = None) -> Predictions:
    """Read the CSV text of run `run_id`.

    Args:
        like: predictions that were read before; a file of the same clips is read faster.

    Raises:
        InputError: another header, no clip, a clip given twice, a line with cells missing, or a
            rank that is no number.
    """
    header, columns = _columns(text, run_id)
    if tuple(header) not in (COLUMNS, (*COLUMNS, RANK)):
        raise _bad(run_id, f"its header is {','.join(header)}, not {','.join(COLUMNS)}")
    if not columns[0]:
        raise _bad(run_id, "it lists no clip")
    if like is not None and (found := like._alike(columns, run_id)):
        return found
    order = np.arange(len(columns[0]))
    if list(columns[0]) != (in_order := sorted(columns[0])):
        order = np.array(sorted(order.tolist(), key=columns[0].__getitem__))
        columns = [[column[at] for at in order.tolist()] for column in columns]
    clips, groups, labels, selected, last, *_ = columns
    if len(set(clips)) < len(clips):
        twice = next(one for one, other in pairwise(in_order) if one == other)
        raise _bad(run_id, f"it lists clip {twice!r} twice")
    classes = tuple(sorted({*labels, *selected}))
    index = {name: number for number, name in enumerate(classes)}
    count = len(clips)
    return Predictions(
        tuple(clips),
        tuple(groups),
        tuple(labels),
        np.fromiter(map(eq, labels, selected), bool, count),
        np.fromiter(map(eq, labels, last), bool, count),
        classes,
        np.fromiter(map(index.__getitem__, selected), np.int16, count),
        order,
        _top5(columns, run_id),
    )


def _top5(columns: Sequence[Sequence[str]], run_id: str) -> np.ndarray | None:
    if len(columns) == len(COLUMNS):
        return None
    try:
        return np.fromiter(map(int, columns[-1]), int, len(columns[-1])) <= 5
    except ValueError as error:
        raise _bad(run_id, f"a rank is no number ({error})") from None


def _columns(text: str, run_id: str) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header of CSV text, and its columns without it."""
    header = text.partition("\n")[0].split(",")
    if '"' not in text and "\r" not in text:
        # Without a list per row, 10 million rows take a quarter of the time.
        cells = (text if text.endswith("\n") else f"{text}\n").replace("\n", ",\n,").split(",")
        width = len(header)
        # A last line with cells missing would be left over.
        is_whole = len(cells) % (width + 1) == 1
        if is_whole and cells[width :: width + 1] == ["\n"] * (len(cells) // (width + 1)):
            return header, [cells[at + width + 1 : -1 : width + 1] for at in range(width)]
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise _bad(run_id, f"it is not CSV ({error})") from None
    except ValueError:
        raise _bad(run_id, "its header is missing") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise _bad(run_id, f"row {number} does not have {len(header)} cells")
    return header, list(zip(*rows, strict=True)) or [()] * len(header)


def _bad(run_id: str, what: str) -> InputError:
    return InputError(
        f"run {run_id}: predictions.csv cannot be used: {what}; delete that run and train it again"
    )


@dataclass(frozen=True)
class EvaluatedClips:
    """Test clips of all folds, concatenated."""

    clips: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()

    @cached_property
    def sessions(self) -> np.ndarray | None:
        """Int "N": index of the group of a clip, which has its own without one.

        None if no clips share a group, so that all are independent.
        """
        keys = [(group, -1 if group else i) for i, group in enumerate(self.groups)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys]) if len(numbers) < len(keys) else None

    @property
    def group_names(self) -> tuple[str, ...]:
        """Sorted names of the groups."""
        return tuple(sorted(set(self.groups) - {""}))

    def only(self, clips: np.ndarray) -> EvaluatedClips:
        """The clips where `clips`, Bool "N", is true."""
        return EvaluatedClips(
            tuple(compress(self.clips, clips)),
            tuple(compress(self.groups, clips)),
            tuple(compress(self.labels, clips)),
            tuple(compress(self.folds, clips)),
        )

    @classmethod
    def of(cls, folds: Mapping[int, Predictions]) -> EvaluatedClips:
        """Clips of `folds` in ascending order."""
        parts = sorted(folds.items())
        return cls(
            tuple(clip for _, part in parts for clip in part.clips),
            tuple(group for _, part in parts for group in part.groups),
            tuple(label for _, part in parts for label in part.labels),
            tuple(fold for fold, part in parts for _ in part.clips),
        )


FILE = "inside.json"

Graphs = Mapping[int, np.ndarray]
"""TG_1 to TG_3 of a clip by their numbers: mean squared edges, Float "T T"."""

_Edges = dict[int, list[list[float]]]


class ClipDiagnostics(BaseModel):
    """One clip of T frames.

    Attributes:
        motion: "T", mean length of a frame's accumulated motion vectors in pixels.
        alpha: "T", weights of the gate; None without one.
        student: graphs by their numbers, "T T".
        teacher: graphs of the RGB teacher; None where the student has none.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    clip: str
    label: str
    motion: list[float]
    alpha: list[float] | None
    student: _Edges
    teacher: _Edges | None

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        frames = len(self.motion)
        if self.alpha is not None and len(self.alpha) != frames:
            raise ValueError(f"clip {self.clip!r}: {len(self.alpha)} weights for {frames} frames")
        for number, edges in [*self.student.items(), *(self.teacher or {}).items()]:
            if {len(edges), *map(len, edges)} != {frames}:
                raise ValueError(f"clip {self.clip!r}: graph {number} is not {frames} x {frames}")
        return self


class _File(BaseModel):
    version: Literal[1] = Field(alias="schema")
    clips: tuple[ClipDiagnostics, ...]


def parse_diagnostics(text: str, owner: str) -> tuple[ClipDiagnostics, ...]:
    """Read the JSON `text` of `owner`, a run or a trial by its id.

    Raises:
        InputError: another schema, a field that is missing, or values that are not of T frames.
    """
    try:
        return _File.model_validate_json(text).clips
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        raise InputError(
            f"{owner}: {FILE} cannot be used ({reason}); delete that run and train it again"
        ) from None


def as_graphs(edges: Mapping[int, list[list[float]]]) -> Graphs:
    """Graphs of a clip as arrays, by ascending number."""
    return {number: np.array(rows) for number, rows in sorted(edges.items())}

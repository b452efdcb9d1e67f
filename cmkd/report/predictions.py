"""Per-clip artifacts of a run: predictions, and gate and graphs of single clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    top5: np.ndarray | None = None

    @property
    def right(self) -> dict[str, np.ndarray]:
        """Correct clips by metric of the run."""
        top5 = {} if self.top5 is None else {"test_top5": self.top5}
        return {"test_acc": self.selected, "test_acc_last": self.last, **top5}


def parse_predictions(text: str, run_id: str) -> Predictions:
    """Read the CSV text of run `run_id`.

    Raises:
        InputError: another header, no clip, a clip given twice, a line with cells missing, or a
            rank that is no number.
    """
    header, columns = _columns(text.replace("\r\n", "\n"), run_id)
    if tuple(header) not in (COLUMNS, (*COLUMNS, RANK)):
        raise _bad(run_id, f"its header is {','.join(header)}, not {','.join(COLUMNS)}")
    clips, groups, labels, selected, last, *ranks = columns
    if not clips:
        raise _bad(run_id, "it lists no clip")
    if list(clips) != (in_order := sorted(clips)):
        order = sorted(range(len(clips)), key=clips.__getitem__)
        columns = [[column[at] for at in order] for column in columns]
        clips, groups, labels, selected, last, *ranks = columns
    if len(set(clips)) < len(clips):
        twice = next(one for one, other in pairwise(in_order) if one == other)
        raise _bad(run_id, f"it lists clip {twice!r} twice")
    classes = tuple(sorted({*labels, *selected}))
    index = {name: number for number, name in enumerate(classes)}
    try:
        top5 = np.array(ranks[0], int) <= 5 if ranks else None
    except ValueError as error:
        raise _bad(run_id, f"a rank is no number ({error})") from None
    count = len(clips)
    return Predictions(
        tuple(clips),
        tuple(groups),
        tuple(labels),
        np.fromiter(map(eq, labels, selected), bool, count),
        np.fromiter(map(eq, labels, last), bool, count),
        classes,
        np.fromiter(map(index.__getitem__, selected), np.int16, count),
        top5,
    )


def _columns(text: str, run_id: str) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header of CSV text, and its columns without it."""
    header = text.partition("\n")[0].split(",")
    if '"' not in text and "\r" not in text:
        # Without a list per row, 10 million rows take a quarter of the time.
        cells = (text if text.endswith("\n") else f"{text}\n").replace("\n", ",\n,").split(",")
        width = len(header)
        count, rest = divmod(len(cells), width + 1)
        if rest == 1 and cells[width :: width + 1] == ["\n"] * count:
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


class PredictionsParser:
    """`parse_predictions` of many files, fast for those that list the clips of an earlier one.

    Only the ends of their lines, which the model decides, are then taken apart. Such files share
    the columns of clips, groups and labels.
    """

    def __init__(self) -> None:
        self._lists: dict[str, _ClipList] = {}

    def parse(self, text: str, run_id: str) -> Predictions:
        """As `parse_predictions`."""
        # Header and first clip, as folds have lists of their own.
        key = text[: text.find(",", text.find("\n") + 1)]
        known = self._lists.get(key)
        found = known.parse(text) if known is not None else None
        if found is None:
            found = parse_predictions(text, run_id)
            lines = _lines(text)
            if '"' not in text and len(lines) == len(found.clips):
                self._lists[key] = _ClipList(lines, found)
        return found


_WIDTH = 16
"""Bits of a class number."""


class _ClipList:
    """Parser of further files with the header, clips, groups and labels of one that was read."""

    def __init__(self, lines: Sequence[str], first: Predictions) -> None:
        self._first = first
        names = [line.partition(",")[0] for line in lines]
        order = sorted(range(len(names)), key=names.__getitem__)
        columns = zip(order, first.clips, first.groups, first.labels, strict=True)
        # In the order of the file; the columns are in that of the names.
        self._starts = [f"{clip},{group},{label}," for _, clip, group, label in sorted(columns)]
        self._order = np.array(order)
        self._length = sum(map(len, self._starts))
        self._classes = tuple(sorted(set(first.labels)))
        # The classes of labels come first, in order.
        self._numbers = {name: number for number, name in enumerate(self._classes)}
        self._labels = np.array([self._numbers[label] for label in first.labels])
        self._ends: dict[str, int] = {}

    def parse(self, text: str) -> Predictions | None:
        """Predictions of the file; None for one that lists something else or is damaged."""
        lines = _lines(text)
        if len(lines) != len(self._starts):
            return None
        ends = list(map(str.removeprefix, lines, self._starts))
        if sum(map(len, lines)) - sum(map(len, ends)) != self._length:
            return None  # A line begins otherwise.
        try:
            packed = np.fromiter(map(self._ends.__getitem__, ends), np.int64, len(ends))
        except KeyError:
            return self.parse(text) if self._learn(ends) else None
        packed = packed[self._order]
        mask = (1 << _WIDTH) - 1
        said, last = packed & mask, packed >> _WIDTH & mask
        first = self._first
        classes, numbers = self._named(said)
        return Predictions(
            first.clips,
            first.groups,
            first.labels,
            said == self._labels,
            last == self._labels,
            classes,
            numbers.astype(np.int16),
            None if first.top5 is None else packed >> 2 * _WIDTH <= 5,
        )

    def _learn(self, ends: Sequence[str]) -> bool:
        """Add new `ends`; False if one of them has other cells."""
        for end in set(ends) - self._ends.keys():
            if (packed := self._pack(end.removesuffix("\r"))) is None:
                return False
            self._ends[end] = packed
        return True

    def _pack(self, end: str) -> int | None:
        """Numbers of both classes and the rank as one number; None if `end` has other cells."""
        said, _, rest = end.partition(",")
        last, _, rank = rest.partition(",")
        is_ranked = self._first.top5 is not None
        is_plain = rank.isdecimal() and len(rank) < 9 if is_ranked else "," not in rest
        if not is_plain or "," not in end or '"' in end or "\r" in end:
            return None
        for name in (said, last):
            self._numbers.setdefault(name, len(self._numbers))
        if len(self._numbers) >> _WIDTH - 1:
            return None
        return self._numbers[said] | self._numbers[last] << _WIDTH | int(rank or 0) << 2 * _WIDTH

    def _named(self, said: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Sorted names of labels and predicted classes, and `said` as indices into them."""
        if said.max() < len(self._classes):
            return self._classes, said
        names = list(self._numbers)
        known = {*self._classes, *(names[number] for number in np.unique(said).tolist())}
        classes = tuple(sorted(known))
        place = {name: index for index, name in enumerate(classes)}
        return classes, np.array([place.get(name, -1) for name in names])[said]


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")[1:]


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

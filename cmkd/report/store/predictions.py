"""The artifact ``predictions.csv`` of a trial: what it said about each test clip."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import numpy as np

from cmkd.errors import InputError

COLUMNS = ("clip", "group", "label", "selected", "last")


@dataclass(frozen=True)
class Predictions:
    """One trial's test clips in order of their names, and whether each was recognised.

    `selected` and `last` are Bool "N": right at the selected and at the last epoch. `said` is
    Int "N": what each clip was taken for at the selected epoch, as an index into `classes`, the
    names that occur in the file.
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


def _bad(run_id: str, what: str) -> InputError:
    return InputError(
        f"run {run_id}: predictions.csv cannot be used: {what}; delete that run and train it again"
    )

"""The artifact ``predictions.csv`` of a trial: what it said about each test clip."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from cmkd.errors import InputError

COLUMNS = ("clip", "group", "label", "selected", "last")


@dataclass(frozen=True)
class Predictions:
    """One trial's test clips in order of their names, and whether each was recognised.

    `selected` and `last` are Bool "N": right at the selected and at the last epoch.
    """

    clips: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...]
    selected: np.ndarray
    last: np.ndarray


def parse_predictions(text: str, run_id: str) -> Predictions:
    """Read the CSV text of run `run_id`.

    Raises:
        InputError: another header, no clip, a clip given twice, or a line with cells missing.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise _bad(run_id, f"it is not CSV ({error})") from None
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise _bad(run_id, f"its header is {reader.fieldnames}, not {','.join(COLUMNS)}")
    if not rows:
        raise _bad(run_id, "it lists no clip")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise _bad(run_id, f"row {number} does not have {len(COLUMNS)} cells")
    rows.sort(key=lambda row: row["clip"])
    clips = tuple(row["clip"] for row in rows)
    for one, following in zip(clips, clips[1:], strict=False):
        if one == following:
            raise _bad(run_id, f"it lists clip {one!r} twice")
    return Predictions(
        clips,
        tuple(row["group"] for row in rows),
        tuple(row["label"] for row in rows),
        np.array([row["label"] == row["selected"] for row in rows]),
        np.array([row["label"] == row["last"] for row in rows]),
    )


def _bad(run_id: str, what: str) -> InputError:
    return InputError(
        f"run {run_id}: predictions.csv cannot be used: {what}; delete that run and train it again"
    )

"""Which rows the arrays of a data set have: a view each, of training clips and of test clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from cmkd.config.data import InputConfig
from cmkd.data.datasets import Dataset
from cmkd.data.views import View, label_of, make_views, plain_view, views_at_test


@dataclass(frozen=True)
class Rows:
    """Rows in the order of the clips.

    Attributes:
        views: of each clip; its rows follow one another in this order.
        labels: class that each row shows.
        index: row of (clip, view), -1 where a clip has no such view.
        test_index: row of (clip, view at test), -1 for clips that no fold tests.
    """

    views: tuple[tuple[View, ...], ...]
    labels: Int64[np.ndarray, " R"]
    index: Int64[np.ndarray, "N V"]
    test_index: Int64[np.ndarray, "N M"]


def plan_rows(dataset: Dataset, inputs: InputConfig) -> Rows:
    """All views of clips that some fold trains on, those at test of clips that some fold tests.

    Other clips have view 0 only, which is also one of those at test.

    Raises:
        DataError: `inputs` asks for crops that the data set cannot have.
    """
    info = dataset.info
    height, width = info.encoding.height, info.encoding.width
    splits = [dataset.split(fold) for fold in range(dataset.num_folds)]
    trained = {clip for split in splits for clip in split.train}
    tested = {clip for split in splits for clip in split.test}
    at_test = views_at_test(info.views, inputs, height, width)
    plain = plain_view(info.views, height, width)
    views: list[tuple[View, ...]] = []
    labels: list[int] = []
    index: list[list[int]] = []
    test_index: list[list[int]] = []
    for number, clip in enumerate(dataset.clips):
        train = number in trained
        seen = make_views(info.views, clip.path, height, width) if train else (plain,)
        asked = at_test if number in tested else ()
        mine = (*seen, *(view for view in asked if view != plain))
        index.append([len(labels) + at for at in range(len(seen))])
        test_index.append([len(labels) + mine.index(view) for view in asked])
        views.append(mine)
        labels += [label_of(info, clip.label, view) for view in mine]
    return Rows(
        tuple(views),
        np.array(labels, np.int64),
        _table(index, max(map(len, index))),
        _table(test_index, len(at_test)),
    )


def _table(rows: Sequence[Sequence[int]], width: int) -> Int64[np.ndarray, "N width"]:
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int64)

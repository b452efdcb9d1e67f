"""What goes on inside a student on a few test clips: its gate and its temporal graphs.

Legend: T frames of a clip. Kept with a trial's run as ``inside.json``, for figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.data.dataset import Dataset
from cmkd.method.temporal_graph import mean_square_edges
from cmkd.training.checkpoint import write_json
from cmkd.training.graph_stats import GRAPHS

FILE = "inside.json"
SCHEMA = 1
MOST_CLIPS = 8
"""Clips looked at, each of another class as far as there are classes."""
DIGITS = 5

Graphs = Mapping[GraphIndex, Float[Tensor, "B T T"]]


@dataclass(frozen=True)
class Inside:
    """B clips from inside.

    Attributes:
        alpha: (B, T) weights of the gate, None without one.
        student: graphs of its h_hat, edges as `temporal_graph.mean_square_edges` has them.
        teacher: the same of its h, None where the student has no teacher.
    """

    alpha: Float[Tensor, "B T"] | None
    student: Graphs
    teacher: Graphs | None = None


def graphs_of(h: Float[Tensor, "B T C h w"], config: MethodConfig) -> Graphs:
    """TG_1 to TG_3 of these maps, also those that the loss leaves out.

    In double precision, in which the distance of a frame to itself is 0 beside the largest ones.
    """
    with torch.no_grad():
        exact = h.double()
        return {graph: mean_square_edges(exact, graph, config).cpu() for graph in GRAPHS}


def chosen_clips(dataset: Dataset, clips: Sequence[int]) -> list[int]:
    """The first of `clips` of every class, at most `MOST_CLIPS`."""
    first: dict[int, int] = {}
    for clip in clips:
        first.setdefault(dataset.clips[clip].label, clip)
    return list(first.values())[:MOST_CLIPS]


def motion_lengths(motion: Float16[np.ndarray, "B T 2*S h w"]) -> NDArray[np.float32]:
    """(B, T) mean length of the vectors of each frame, in pixels."""
    vectors = motion.astype(np.float32)
    pairs = vectors.reshape(*vectors.shape[:2], -1, 2, *vectors.shape[3:])
    return np.asarray(np.hypot(pairs[:, :, :, 0], pairs[:, :, :, 1]).mean((2, 3, 4)))


def write_inside(
    path: Path,
    dataset: Dataset,
    clips: Sequence[int],
    motion: NDArray[np.float32],
    inside: Inside,
) -> None:
    """Gate, motion (as `motion_lengths` gives it) and graphs of each clip, five digits each."""
    entries = [
        {
            "clip": dataset.clips[clip].path,
            "group": dataset.clips[clip].group,
            "label": dataset.info.classes[dataset.clips[clip].label],
            "motion": _rounded(motion[number].tolist()),
            **_entry(inside, number),
        }
        for number, clip in enumerate(clips)
    ]
    write_json(path, {"schema": SCHEMA, "clips": entries})


def _entry(inside: Inside, number: int) -> dict[str, Any]:
    def graphs(of: Graphs | None) -> Any:
        if of is None:
            return None
        return {str(graph): _rounded(edges[number].tolist()) for graph, edges in of.items()}

    alpha = None if inside.alpha is None else _rounded(inside.alpha[number].tolist())
    return {"alpha": alpha, "student": graphs(inside.student), "teacher": graphs(inside.teacher)}


def _rounded(values: Any) -> Any:
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return float(f"{values:.{DIGITS}g}")

"""Gate and temporal graphs of a student on a few test clips, for figures.

Legend: T frames of a clip. Kept with a trial's run as ``inside.json``.
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
from cmkd.io import write_json
from cmkd.method.temporal_graph import mean_square_edges
from cmkd.training.features import GRAPHS

SCHEMA = 1
MOST_CLIPS = 8
"""Most clips kept, each of another class as far as there are classes."""
DIGITS = 5

Graphs = Mapping[GraphIndex, Float[Tensor, "B T T"]]


@dataclass(frozen=True)
class ClipDiagnostics:
    """Gate and graphs of B clips.

    Attributes:
        alpha: (B, T) weights of the gate, None without one.
        student: graphs of its h_hat, with the edges of `temporal_graph.mean_square_edges`.
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


def choose_clips(dataset: Dataset, clips: Sequence[int]) -> list[int]:
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


def write_diagnostics(
    path: Path,
    dataset: Dataset,
    clips: Sequence[int],
    motion: NDArray[np.float32],
    found: ClipDiagnostics,
) -> None:
    """Gate, motion (from `motion_lengths`) and graphs of each clip, with `DIGITS` digits."""
    entries = [
        {
            "clip": dataset.clips[clip].path,
            "group": dataset.clips[clip].group,
            "label": dataset.info.classes[dataset.clips[clip].label],
            "motion": _rounded(motion[number].tolist()),
            "alpha": None if found.alpha is None else _rounded(found.alpha[number].tolist()),
            "student": _graphs_of_clip(found.student, number),
            "teacher": _graphs_of_clip(found.teacher, number),
        }
        for number, clip in enumerate(clips)
    ]
    write_json(path, {"schema": SCHEMA, "clips": entries})


def _graphs_of_clip(graphs: Graphs | None, number: int) -> Any:
    if graphs is None:
        return None
    return {str(graph): _rounded(edges[number].tolist()) for graph, edges in graphs.items()}


def _rounded(values: Any) -> Any:
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return float(f"{values:.{DIGITS}g}")

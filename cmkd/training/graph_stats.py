"""How large the teacher's temporal graphs are: measured once, and held against what fp32 can do."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.method.temporal_graph import adjacency, describe, vertices
from cmkd.training.batches import in_order
from cmkd.training.checkpoint import read_json, write_json
from cmkd.training.features import TeacherFeatures

GRAPHS: tuple[GraphIndex, ...] = (1, 2, 3)
MOST_ZEROS = 0.5
"""Share of a graph's vertices that may be exactly 0 before a warning."""
SMALLEST = 1e-6
"""Least mean edge before a warning: below it, what the student starts from is another order of
magnitude altogether."""
LARGEST_RAW = 1e2
"""Largest mean edge under `tg_edge: raw` before a warning; Eq. (6) squares it."""


@dataclass(frozen=True)
class EdgeFigures:
    """One graph of the teacher over the unchanged training clips.

    Attributes:
        mean: of the edges per dimension of a vertex, the scale of `tg_edge: sqrt` (A11).
        raw: of the edges as Eq. (3) writes them.
        zeros: share of the entries of vertices that are exactly 0.
    """

    mean: float
    raw: float
    zeros: float


def mean_edges(
    features: TeacherFeatures,
    plain_rows: NDArray[np.int64],
    config: MethodConfig,
    cache_file: Path,
) -> Mapping[GraphIndex, float]:
    """`EdgeFigures.mean` of each graph, kept in a file.

    Warns (UserWarning, with the figures) where the reading of Eqs. (3) and (5) that `config`
    chooses leaves temporal KD without effect, or makes it all there is (A9, A11).
    """
    key = f"{config.tg_features}/{config.tg_kernel}"
    with FileLock(f"{cache_file}.lock"):
        known: dict[str, Any] = {}
        if cache_file.is_file():
            known = read_json(cache_file, remedy=str(cache_file))
        if key not in known:
            measured = measure_edges(features, plain_rows, config)
            known[key] = {str(graph): asdict(measured[graph]) for graph in GRAPHS}
            write_json(cache_file, known)
    figures = {graph: EdgeFigures(**known[key][str(graph)]) for graph in GRAPHS}
    if config.lambda_2:
        for problem in problems(figures, config):
            warnings.warn(problem, stacklevel=2)
    return {graph: figures[graph].mean for graph in GRAPHS}


def problems(figures: Mapping[GraphIndex, EdgeFigures], config: MethodConfig) -> list[str]:
    """A line for each chosen graph whose figures defeat temporal KD."""
    found = []
    for graph in config.tg:
        one = figures[graph]
        if one.zeros > MOST_ZEROS or one.raw < SMALLEST:
            found.append(
                f"method.tg_kernel {config.tg_kernel}: TG_{graph} of the teacher vanishes; "
                f"{100 * one.zeros:.1f} % of its vertices are exactly 0 and its mean edge is "
                f"{one.raw:.3g}, so it cannot be taught; elementwise keeps it"
            )
        elif config.tg_edge == "raw" and one.raw > LARGEST_RAW:
            found.append(
                f"method.tg_edge raw: the mean edge of TG_{graph} of the teacher is {one.raw:.3g}, "
                f"so its term of Eq. (6) is of the order {one.raw**2:.3g} beside a cross-entropy "
                "of about 1; use sqrt or max, or a smaller lambda_2"
            )
    return found


def measure_edges(
    features: TeacherFeatures, plain_rows: NDArray[np.int64], config: MethodConfig
) -> Mapping[GraphIndex, EdgeFigures]:
    """Figures of each graph, averaged over these rows."""
    sums = {graph: np.zeros(3) for graph in GRAPHS}
    for part in in_order(plain_rows, features.batch):
        h = describe(features.targets(part, {}).h, config)
        for graph in GRAPHS:
            v = vertices(h, graph, config)
            raw = adjacency(v)
            mean = (raw / v.shape[-1]).mean((1, 2)).sum()
            zeros = (v == 0).float().mean((1, 2)).sum()
            sums[graph] += [float(mean), float(raw.mean((1, 2)).sum()), float(zeros)]
    return {graph: EdgeFigures(*(sums[graph] / len(plain_rows)).tolist()) for graph in GRAPHS}

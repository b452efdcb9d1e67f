"""Gates over motion and temporal graphs of students, as values of figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmkd.errors import InfrastructureError
from cmkd.report.arms import FAMILIES, Family
from cmkd.report.comparisons import factorial_arms
from cmkd.report.evidence import Trial, trials_of
from cmkd.report.predictions import FILE, ClipDiagnostics, Graphs, as_graphs, parse_diagnostics
from cmkd.report.tables import Table
from cmkd.tracking.reader import RunReader

GATE_CLIPS = 4
"""Clips side by side."""
MOST_SEEDS = 5
"""Read of every arm; a figure shows no more."""
TEACHER = "teacher"

RunDiagnostics = tuple[ClipDiagnostics, ...]


@dataclass(frozen=True)
class GateView:
    """The gate on C clips of T frames.

    Attributes:
        labels: classes of the clips.
        motion: Float "C T", see `ClipDiagnostics`.
        alpha: by arm, Float "S C T" of its seeds.
        follows: by arm, the correlation of its weights with motion over the frames of a clip, mean
            over clips and seeds; an arm without any spread has none.
    """

    name: str
    labels: tuple[str, ...]
    motion: np.ndarray
    alpha: Mapping[str, np.ndarray]
    follows: Mapping[str, float]


@dataclass(frozen=True)
class GraphView:
    """Temporal graphs of one clip side by side.

    Attributes:
        columns: whose graphs they are; the teacher, if it is known, comes first.
        likeness: by student and graph, the correlation of its edges with the teacher's over all
            pairs of frames, mean over the clips and seeds that were looked at.
    """

    name: str
    clip: str
    label: str
    columns: Mapping[str, Graphs]
    likeness: Mapping[str, Mapping[int, float]]


def gate_view(name: str, arms: Mapping[str, Sequence[RunDiagnostics]]) -> GateView | None:
    """Gates of `arms`, one `RunDiagnostics` per seed; None where no arm has a gate.

    Trials that kept other clips than the first are left out.
    """
    gated = {
        arm: [clips for clips in seeds if all(clip.alpha is not None for clip in clips)]
        for arm, seeds in arms.items()
    }
    found = _alike(gated)
    if not found:
        return None
    first = next(iter(found.values()))[0]
    motion = np.stack([clip.motion for clip in first])
    alpha = {
        arm: np.array([[clip.alpha for clip in clips] for clips in seeds], float)
        for arm, seeds in found.items()
    }
    follows = {
        arm: _mean(
            _correlation(own, moved)
            for weights in by_seed
            for own, moved in zip(weights, motion, strict=True)
        )
        for arm, by_seed in alpha.items()
    }
    return GateView(
        name,
        tuple(clip.label for clip in first[:GATE_CLIPS]),
        motion[:GATE_CLIPS],
        {arm: weights[:, :GATE_CLIPS] for arm, weights in alpha.items()},
        {arm: value for arm, value in follows.items() if value is not None},
    )


def graph_view(name: str, arms: Mapping[str, Sequence[RunDiagnostics]]) -> GraphView | None:
    """Graphs of `arms` on the first clip of the first seed, one `RunDiagnostics` per seed.

    None where there are none; trials that kept other clips than the first are left out.
    """
    found = _alike(arms)
    if not found:
        return None
    first = next(iter(found.values()))[0][0]
    taught = [clips for seeds in found.values() for clips in seeds if clips[0].teacher is not None]
    teacher = [as_graphs(clip.teacher or {}) for clip in taught[0]] if taught else []
    likeness = {arm: _likeness(seeds, teacher) for arm, seeds in found.items()}
    students = {arm: as_graphs(seeds[0][0].student) for arm, seeds in found.items()}
    columns = {TEACHER: teacher[0], **students} if teacher else students
    return GraphView(name, first.clip, first.label, columns, likeness)


def _likeness(seeds: Sequence[RunDiagnostics], teacher: Sequence[Graphs]) -> dict[int, float]:
    found = {
        number: _mean(
            _correlation(_pairs(np.array(clip.student[number])), _pairs(theirs[number]))
            for clips in seeds
            for clip, theirs in zip(clips, teacher, strict=True)
        )
        for number in (teacher[0] if teacher else ())
    }
    return {number: value for number, value in found.items() if value is not None}


def diagnostics_of(table: Table) -> Iterator[tuple[Family, Mapping[str, Sequence[RunDiagnostics]]]]:
    """By family, what trials of control, spatial, temporal and both keep of one fold, by arm.

    The fold is the first; a family whose trials keep nothing is left out.
    """
    fold = table.evidence.folds[0] if table.evidence.folds else 0
    for family in FAMILIES:
        found = {}
        for arm in factorial_arms(table.evidence, family).values():
            trials = [trial for trial in trials_of(table.evidence, arm) if trial.fold == fold]
            seeds = [read for trial in trials[:MOST_SEEDS] if (read := _read(table.store, trial))]
            if seeds:
                found[arm.name] = seeds
        if found:
            yield family, found


def _read(store: RunReader | None, trial: Trial) -> RunDiagnostics:
    """Diagnostics of a trial; none of students without a decoder.

    Raises:
        InputError: the file is damaged.
        InfrastructureError: the store does not answer.
    """
    if store is None:
        return ()
    try:
        text = store.read_text(trial.run_id, FILE)
    except InfrastructureError:
        # Raises if the store is down; otherwise there is no such file.
        store.find({"trial_id": trial.trial_id})
        return ()
    return parse_diagnostics(text, f"run {trial.run_id}")


def _alike(arms: Mapping[str, Sequence[RunDiagnostics]]) -> dict[str, list[RunDiagnostics]]:
    kept = [(arm, clips) for arm, seeds in arms.items() for clips in seeds if clips]
    found: dict[str, list[RunDiagnostics]] = {}
    for arm, clips in kept:
        if _places(clips) == _places(kept[0][1]):
            found.setdefault(arm, []).append(clips)
    return found


def _places(clips: RunDiagnostics) -> list[tuple[str, int]]:
    """The clips by name, with their frames."""
    return [(clip.clip, len(clip.motion)) for clip in clips]


def _pairs(edges: np.ndarray) -> np.ndarray:
    upper: np.ndarray = edges[np.triu_indices(len(edges), 1)]
    return upper


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's; None where one of them is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

"""Confusion matrices of arms, and gains per class over their reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cmkd.report.arms import find_references
from cmkd.report.evidence import trials_of
from cmkd.report.tables import ArmResult, Difference, Table

LEGIBLE = 12
"""Most classes of a figure."""


@dataclass(frozen=True)
class Compared:
    """One arm beside its reference, at the selected epoch.

    Attributes:
        shares: Float "C K", row-normalised confusions in percent over all seeds; columns are
            `ClassView.said`.
        gains: per class, accuracy minus that of the reference.
        per_seed: Float "S C", the gains by shared seed.
    """

    arm: str
    seeds: int
    shares: np.ndarray
    gains: tuple[Difference, ...]
    per_seed: np.ndarray


@dataclass(frozen=True)
class ClassView:
    """Arms of one reference, class by class.

    Attributes:
        classes: those that differ most from the reference, at most `LEGIBLE`.
        said: predicted classes, further ones together at the end.
        clips: number of test clips per class.
        left_out: number of classes not shown.
    """

    reference: str
    classes: tuple[str, ...]
    said: tuple[str, ...]
    clips: tuple[int, ...]
    left_out: int
    reference_seeds: int
    reference_shares: np.ndarray
    arms: tuple[Compared, ...]


def class_views(table: Table, role: str) -> Iterator[ClassView]:
    """Views of the references of `role` that have a complete seed and arms to compare.

    A test set of a single class has none.
    """
    labels = np.array(table.evidence.test.labels)
    if len(set(labels.tolist())) < 2:
        return
    by_reference: dict[str, list[ArmResult]] = {}
    references = find_references(table.sweep, role)
    known = {measured.arm.setting.id: measured for measured in table.measured if measured.seeds}
    for one in known.values():
        found = references.get(one.arm.name)
        if found is not None and found.setting.id in known and found.setting != one.arm.setting:
            by_reference.setdefault(found.setting.id, []).append(one)
    for setting_id, arms in by_reference.items():
        yield _view(table, known[setting_id], arms, labels)


def _view(
    table: Table, reference: ArmResult, arms: Sequence[ArmResult], labels: np.ndarray
) -> ClassView:
    classes = _shown(reference, arms, labels)
    named = {name for trial in table.evidence.trials for name in trial.predictions.classes}
    others = len(named - set(classes))
    said = (*classes, f"{others} others") if others else classes
    return ClassView(
        reference=reference.arm.name,
        classes=classes,
        said=said,
        clips=tuple(int((labels == name).sum()) for name in classes),
        left_out=len(set(labels.tolist())) - len(classes),
        reference_seeds=len(reference.seeds),
        reference_shares=_shares(table, reference, classes, labels)[:, : len(said)],
        arms=tuple(_compare(table, arm, reference, classes, labels, len(said)) for arm in arms),
    )


def _shown(reference: ArmResult, arms: Sequence[ArmResult], labels: np.ndarray) -> tuple[str, ...]:
    """Classes to show, by ascending recall of the reference."""
    hits = {one.arm.name: one.right["selected"].mean(axis=0) for one in (reference, *arms)}
    own = hits.pop(reference.arm.name)

    def recall(name: str) -> float:
        return float(own[labels == name].mean())

    def change(name: str) -> float:
        clips = labels == name
        return max(abs(float(arm[clips].mean() - own[clips].mean())) for arm in hits.values())

    names = sorted(set(labels.tolist()))
    most = sorted(names, key=change, reverse=True)[:LEGIBLE]
    return tuple(sorted(most, key=lambda name: (recall(name), name)))


def _shares(
    table: Table, measured: ArmResult, classes: Sequence[str], labels: np.ndarray
) -> np.ndarray:
    """Float "C C+1"; the last column holds all other classes."""
    others = len(classes)
    index = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((others + 1) * (others + 1), int)
    rows = np.array([index.get(name, others) for name in labels.tolist()])
    folds = np.array(table.evidence.test.folds)
    seeds = frozenset(measured.seeds)
    for trial in trials_of(table.evidence, measured.arm):
        if trial.seed in seeds:
            predictions = trial.predictions
            columns = np.array([index.get(name, others) for name in predictions.classes])
            pairs = rows[folds == trial.fold] * (others + 1) + columns[predictions.said]
            counts += np.bincount(pairs, minlength=len(counts))
    matrix = counts.reshape(others + 1, others + 1)[:others]
    shares: np.ndarray = 100 * matrix / matrix.sum(axis=1, keepdims=True)
    return shares


def _compare(
    table: Table,
    measured: ArmResult,
    reference: ArmResult,
    classes: Sequence[str],
    labels: np.ndarray,
    columns: int,
) -> Compared:
    gains = []
    for name in classes:
        clips = labels == name
        parts = ((1.0, measured.of_clips(clips)), (-1.0, reference.of_clips(clips)))
        gains.append(Difference(name, parts))
    return Compared(
        arm=measured.arm.name,
        seeds=len(measured.seeds),
        shares=_shares(table, measured, classes, labels)[:, :columns],
        gains=tuple(gains),
        per_seed=np.array([gain.per_seed for gain in gains]).T,
    )

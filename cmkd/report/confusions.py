"""What arms take the clips of every class for, and which classes gain against their reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cmkd.report.arms import find_reference
from cmkd.report.cells import Difference, Outcomes, TestSet, difference
from cmkd.report.evidence import Evidence, trials_of
from cmkd.report.tables import Measured, Table

LEGIBLE = 12
"""Classes that a picture has room for."""


@dataclass(frozen=True)
class Compared:
    """One arm beside its reference, at the selected epoch.

    Attributes:
        shares: Float "C K": how many per cent of the clips of a class, over all seeds, the arm
            takes for each class of `ClassView.said`.
        gains: per class, the accuracy on its clips minus that of the reference.
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

    `classes` are those on which the arms differ most from the reference where there are more than
    `LEGIBLE`, else all; `said` ends with the others together where there are any. `clips` counts
    the test clips of every class, and `left_out` the classes that are not shown.
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
    """One view per reference of `role`, with the arms that are compared with it in the table.

    References without a complete seed, and those without any arm to compare, have none; neither
    has a test set of a single class.
    """
    labels = _labels(table.evidence)
    if len(set(labels.tolist())) < 2:
        return
    by_reference: dict[str, list[Measured]] = {}
    known = {one.arm.setting.id: one for one in table.measured if one.outcomes.seeds}
    for one in known.values():
        found = find_reference(table.sweep, role, one.arm.setting)
        if found is not None and found.setting.id in known and found.setting != one.arm.setting:
            by_reference.setdefault(found.setting.id, []).append(one)
    for setting_id, arms in by_reference.items():
        yield _view(table, known[setting_id], arms, labels)


def _view(
    table: Table, reference: Measured, arms: Sequence[Measured], labels: np.ndarray
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
        reference_seeds=len(reference.outcomes.seeds),
        reference_shares=_shares(table, reference, classes, labels)[:, : len(said)],
        arms=tuple(_compare(table, one, reference, classes, labels, len(said)) for one in arms),
    )


def _labels(evidence: Evidence) -> np.ndarray:
    """The class of every clip of the table's test set, "N"."""
    first = {trial.fold: trial.predictions.labels for trial in evidence.trials}
    return np.array([label for fold in evidence.folds for label in first[fold]])


def _shown(reference: Measured, arms: Sequence[Measured], labels: np.ndarray) -> tuple[str, ...]:
    """The classes to show, those that the reference finds hardest first."""
    hits = {one.arm.name: one.outcomes.selected.mean(axis=0) for one in (reference, *arms)}
    own = hits.pop(reference.arm.name)

    def recall(name: str) -> float:
        return float(own[labels == name].mean())

    def change(name: str) -> float:
        clips = labels == name
        return max(abs(float(one[clips].mean() - own[clips].mean())) for one in hits.values())

    names = sorted(set(labels.tolist()))
    most = sorted(names, key=change, reverse=True)[:LEGIBLE]
    return tuple(sorted(most, key=lambda name: (recall(name), name)))


def _shares(table: Table, one: Measured, classes: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Float "C C+1"; the last column is that of all classes that are not among `classes`."""
    others = len(classes)
    index = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((others + 1) * (others + 1), int)
    rows = np.array([index.get(name, others) for name in labels.tolist()])
    folds = np.array(table.test.folds)
    seeds = frozenset(one.outcomes.seeds)
    for trial in trials_of(table.evidence, one.arm):
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
    one: Measured,
    reference: Measured,
    classes: Sequence[str],
    labels: np.ndarray,
    columns: int,
) -> Compared:
    gains, per_seed = [], []
    for name in classes:
        clips = labels == name
        own, other = _only(one.outcomes, clips), _only(reference.outcomes, clips)
        gains.append(difference(own, other, reference.arm.name, _part(table.test, clips)))
        theirs = dict(zip(other.seeds, other.selected.mean(axis=1), strict=True))
        ours = dict(zip(own.seeds, own.selected.mean(axis=1), strict=True))
        per_seed.append([100 * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs])
    return Compared(
        arm=one.arm.name,
        seeds=len(one.outcomes.seeds),
        shares=_shares(table, one, classes, labels)[:, :columns],
        gains=tuple(gains),
        per_seed=np.array(per_seed).T,
    )


def _only(one: Outcomes, clips: np.ndarray) -> Outcomes:
    return replace(one, selected=one.selected[:, clips], last=one.last[:, clips])


def _part(test: TestSet, clips: np.ndarray) -> TestSet:
    chosen = np.flatnonzero(clips).tolist()
    return TestSet(
        tuple(test.clips[i] for i in chosen),
        tuple(test.groups[i] for i in chosen),
        tuple(test.folds[i] for i in chosen),
    )

"""The searches for the weights of the losses: our accuracies and the paper's along each weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from cmkd.config.trial import Setting
from cmkd.report.arms import family_of_arm
from cmkd.report.evidence import Evidence, trials_of
from cmkd.report.tables import ArmResult, Score, Table
from cmkd.tracking.store import History

METRICS: Mapping[str, str] = {
    "val_acc": "validation accuracy (%)",
    "loss_ce": "training cross-entropy",
}
"""Drawn metrics; the total loss is not comparable between arms."""


@dataclass(frozen=True)
class Curve:
    """Values by epoch: Float "S E", a seed's being the mean over its folds."""

    epochs: tuple[int, ...]
    per_seed: np.ndarray


def training_curves(table: Table) -> dict[str, dict[str, Curve]]:
    """Curves by metric and arm, over complete seeds and the epochs of all their trials."""
    run_ids = [trial.run_id for trial in table.evidence.trials]
    found: dict[str, dict[str, Curve]] = {}
    for name in METRICS:
        by_run = table.store.histories(run_ids, name) if table.store is not None else {}
        curves = {
            measured.arm.name: _curve(measured, table.evidence, by_run)
            for measured in table.measured
        }
        found[name] = {arm: curve for arm, curve in curves.items() if curve is not None}
    return found


def _curve(measured: ArmResult, evidence: Evidence, by_run: Mapping[str, History]) -> Curve | None:
    by_seed: dict[int, list[History]] = {seed: [] for seed in measured.seeds}
    for trial in trials_of(evidence, measured.arm):
        if trial.seed in by_seed:
            by_seed[trial.seed].append(by_run.get(trial.run_id, {}))
    logged = [history for histories in by_seed.values() for history in histories]
    epochs = sorted(set.intersection(*(set(measured) for measured in logged))) if logged else []
    if len(epochs) < 2:  # An SVM has one value.
        return None
    values = [
        np.mean([[history[epoch] for epoch in epochs] for history in histories], axis=0)
        for histories in by_seed.values()
    ]
    return Curve(tuple(epochs), np.stack(values))


T = TypeVar("T")

SYMBOLS = ("λ1", "λ2")


@dataclass(frozen=True)
class Tried(Generic[T]):
    """Result of a pair of weights."""

    weights: tuple[float, float]
    value: T


@dataclass(frozen=True)
class Search(Generic[T]):
    """Values by ascending weight; the other weight is `held`."""

    held: float
    points: tuple[tuple[float, T], ...]


@dataclass(frozen=True)
class Searches:
    """Both searches by symbol; `plain` is the student without decoder, `printed` the paper's."""

    ours: Mapping[str, Search[Score]]
    plain: Score | None
    printed: Mapping[str, Mapping[str, Search[float]]]
    printed_plain: Mapping[str, float]


def searches(table: Table) -> Searches:
    """Searches over λ1 and λ2 in the rows of `table`, at the selected epoch."""
    family = next((row.family for row in table.rows if row.family is not None), None)
    students = [
        measured
        for measured in table.measured
        if measured.arm.setting.model == "student"
        and family_of_arm(measured.arm.setting) == family
        and measured.selected.mean is not None
    ]
    plain = [
        measured.selected
        for measured in students
        if not measured.arm.setting.method.decoder and not measured.arm.setting.needs_teacher
    ]
    columns = table.published.columns
    return Searches(
        _both(_alike(students)),
        plain[0] if plain else None,
        {column: _both(_printed(table, column)) for column in columns},
        {column: value for column in columns for value in _printed_plain(table, column)},
    )


def _alike(students: Sequence[ArmResult]) -> list[Tried[Score]]:
    """Largest set of students that differ in their two weights alone."""
    decoded = [measured for measured in students if measured.arm.setting.method.decoder]
    kinds = Counter(_unweighted(measured.arm.setting).id for measured in decoded)
    if not kinds:
        return []
    common = kinds.most_common(1)[0][0]
    found = [measured for measured in decoded if _unweighted(measured.arm.setting).id == common]
    return [
        Tried((one.arm.setting.method.lambda_1, one.arm.setting.method.lambda_2), one.selected)
        for one in found
    ]


def _unweighted(setting: Setting) -> Setting:
    method = setting.method.model_copy(update={"lambda_1": 0.0, "lambda_2": 0.0})
    return setting.model_copy(update={"method": method})


def _printed(table: Table, column: str) -> list[Tried[float]]:
    found = []
    for row in table.published.rows:
        value = row.printed[column] if row.printed is not None else None
        named = row.ours.method if row.ours is not None else {}
        if value is not None and named.get("decoder", True) and not named.get("logits"):
            weights = (float(named.get("lambda_1", 0.0)), float(named.get("lambda_2", 0.0)))
            found.append(Tried(weights, value))
    return found


def _printed_plain(table: Table, column: str) -> Iterable[float]:
    for row in table.published.rows:
        value = row.printed[column] if row.printed is not None else None
        if value is not None and row.ours is not None and not row.ours.method.get("decoder", True):
            yield value


def _both(tried: Sequence[Tried[T]]) -> dict[str, Search[T]]:
    """λ1 at λ2 = 0, and λ2 at the λ1 with most of its values."""
    first = {point.weights[0]: point.value for point in tried if point.weights[1] == 0}
    held = Counter(point.weights[0] for point in tried if point.weights[1] > 0)
    found = {SYMBOLS[0]: Search(0.0, tuple(sorted(first.items(), key=_weight)))}
    if held:
        at = held.most_common(1)[0][0]
        second = {point.weights[1]: point.value for point in tried if point.weights[0] == at}
        found[SYMBOLS[1]] = Search(at, tuple(sorted(second.items(), key=_weight)))
    return {symbol: search for symbol, search in found.items() if len(search.points) > 1}


def _weight(point: tuple[float, T]) -> float:
    return point[0]

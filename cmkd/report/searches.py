"""The searches for the weights of the losses: our accuracies and the paper's along each weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from cmkd.config.trial import Setting
from cmkd.report.arms import distils, family_of_arm
from cmkd.report.cells import Score
from cmkd.report.evidence import Evidence, trials_of
from cmkd.report.tables import Measured, Table
from cmkd.tracking.store import History

METRICS: Mapping[str, str] = {
    "val_acc": "validation accuracy (%)",
    "loss_ce": "training cross-entropy",
}
"""What is drawn. The whole training loss is not: arms with other terms have another loss."""


@dataclass(frozen=True)
class Curve:
    """Values by epoch: Float "S E", a seed's being the mean over its folds."""

    epochs: tuple[int, ...]
    per_seed: np.ndarray


def training_curves(table: Table) -> dict[str, dict[str, Curve]]:
    """The curves of every arm that logged some for two epochs or more, by metric and arm.

    Only complete seeds count, and epochs that all their trials have.
    """
    found: dict[str, dict[str, Curve]] = {}
    for name in METRICS:
        by_run = table.read_history(name)
        curves = {one.arm.name: _curve(one, table.evidence, by_run) for one in table.measured}
        found[name] = {arm: curve for arm, curve in curves.items() if curve is not None}
    return found


def _curve(one: Measured, evidence: Evidence, by_run: Mapping[str, History]) -> Curve | None:
    by_seed: dict[int, list[History]] = {seed: [] for seed in one.outcomes.seeds}
    for trial in trials_of(evidence, one.arm):
        if trial.seed in by_seed:
            by_seed[trial.seed].append(by_run.get(trial.run_id, {}))
    logged = [history for histories in by_seed.values() for history in histories]
    epochs = sorted(set.intersection(*(set(one) for one in logged))) if logged else []
    if len(epochs) < 2:  # a support vector machine has one value, which is no curve
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
    """What one pair of weights gave."""

    weights: tuple[float, float]
    value: T


@dataclass(frozen=True)
class Search(Generic[T]):
    """Values along one weight in ascending order, while the other one is held at `held`."""

    held: float
    points: tuple[tuple[float, T], ...]


@dataclass(frozen=True)
class Searches:
    """Both searches, by their symbols; a search that was not run is not there.

    `plain` is the student without pseudo-decoder, another network and so on no curve. `printed` and
    `printed_plain` are the paper's, by column.
    """

    ours: Mapping[str, Search[Score]]
    plain: Score | None
    printed: Mapping[str, Mapping[str, Search[float]]]
    printed_plain: Mapping[str, float]


def searches(table: Table) -> Searches:
    """The searches that the rows of `table` make up, at the selected epoch."""
    family = next((row.family for row in table.rows if row.family is not None), None)
    students = [
        one
        for one in table.measured
        if one.arm.setting.model == "student"
        and family_of_arm(one.arm.setting) == family
        and one.selected.mean is not None
    ]
    plain = [
        one.selected
        for one in students
        if not one.arm.setting.method.decoder and not distils(one.arm.setting)
    ]
    columns = table.published.columns
    return Searches(
        _both(_alike(students)),
        plain[0] if plain else None,
        {column: _both(_printed(table, column)) for column in columns},
        {column: value for column in columns for value in _printed_plain(table, column)},
    )


def _alike(students: Sequence[Measured]) -> list[Tried[Score]]:
    """The students that differ in their two weights alone: the largest set of such ones."""
    decoded = [one for one in students if one.arm.setting.method.decoder]
    kinds = Counter(_unweighted(one.arm.setting).id for one in decoded)
    if not kinds:
        return []
    common = kinds.most_common(1)[0][0]
    found = [one for one in decoded if _unweighted(one.arm.setting).id == common]
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
    """λ1 at λ2 = 0, and λ2 at the λ1 at which most of its values were tried."""
    first = {one.weights[0]: one.value for one in tried if one.weights[1] == 0}
    held = Counter(one.weights[0] for one in tried if one.weights[1] > 0)
    found = {SYMBOLS[0]: Search(0.0, tuple(sorted(first.items(), key=_weight)))}
    if held:
        at = held.most_common(1)[0][0]
        second = {one.weights[1]: one.value for one in tried if one.weights[0] == at}
        found[SYMBOLS[1]] = Search(at, tuple(sorted(second.items(), key=_weight)))
    return {symbol: search for symbol, search in found.items() if len(search.points) > 1}


def _weight(point: tuple[float, T]) -> float:
    return point[0]

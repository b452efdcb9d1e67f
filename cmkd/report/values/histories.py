"""Training curves: what the trials of an arm logged after every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmkd.report.store.evidence import Evidence, trials_of
from cmkd.report.values.tables import Measured, Table
from cmkd.tracking.records import History

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

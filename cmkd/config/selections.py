"""Selections between the stages of a sweep, made from its finished trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cmkd.config.spec import Selection
from cmkd.config.sweep import Sweep
from cmkd.config.trial import Setting

Scores = Mapping[tuple[str, int, int], float]
"""(setting id, fold, seed) of a finished trial -> its best validation accuracy in percent."""


@dataclass(frozen=True)
class Choice:
    """A selection that was made.

    Attributes:
        means: candidate value -> mean best validation accuracy in percent.
        trials: trials behind each mean.
    """

    name: str
    key: str
    means: Mapping[float, float]
    trials: int

    @property
    def value(self) -> float:
        """The value of the highest mean; of equal ones the smaller."""
        return max(self.means, key=lambda value: (self.means[value], -value))

    def describe(self) -> str:
        """``lambda_1 = 0.1: best mean val. acc. of method.lambda_1 in {0.01: 70.00 %, ...}``."""
        means = ", ".join(f"{value}: {mean:.2f} %" for value, mean in self.means.items())
        is_tie = list(self.means.values()).count(self.means[self.value]) > 1
        return (
            f"{self.name} = {self.value}: best mean validation accuracy of {self.key} in "
            f"{{{means}}}, {self.trials} trials each{'; of equal ones the smaller' * is_tie}"
        )


def resolve(
    sweep: Sweep, scores: Scores, *, folds: int, seeds: int
) -> tuple[Sweep, tuple[Choice, ...]]:
    """Make every selection whose candidates have all finished, one stage after the other.

    Args:
        folds: splits 0 .. folds - 1 of the data set.
        seeds: paired seeds 0 .. seeds - 1.

    Returns:
        The sweep with the arms that are known now, and the choices in the order of the spec.
    """
    choices: list[Choice] = []
    for name, selection in sweep.spec.select.items():
        means = _means(sweep, selection, scores, folds, seeds)
        if means is not None:
            choice = Choice(name, selection.key, means, folds * seeds)
            choices.append(choice)
            sweep = sweep.select(name, choice.value)
    return sweep, tuple(choices)


def _means(
    sweep: Sweep, selection: Selection, scores: Scores, folds: int, seeds: int
) -> dict[float, float] | None:
    """Mean score of each candidate; None where a trial is not finished or an arm not known."""
    if any(name.partition("[")[0] in selection.among for name in sweep.waiting):
        return None
    means: dict[float, float] = {}
    for arm in sweep.arms:
        if arm.block in selection.among:
            setting_id = arm.setting.id
            keys = [(setting_id, fold, seed) for fold in range(folds) for seed in range(seeds)]
            reached = [scores[key] for key in keys if key in scores]
            if len(reached) < len(keys):
                return None
            # Sums in another order are no reason to choose another value.
            means[_number(arm.setting, selection.key)] = round(fmean(reached), 9)
    return means


def _number(setting: Setting, key: str) -> float:
    value: Any = setting.as_json()
    for part in key.split("."):
        value = value[part]
    return float(value)

"""Accuracies and differences of arms, computed from their trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from cmkd.report.evidence import Evidence, Trial
from cmkd.stats import LEAST_REPLICATES, Estimate, Interval, estimate, tied_with_best

Epoch = Literal["selected", "last"]
EPOCHS: tuple[Epoch, ...] = ("selected", "last")


@dataclass(frozen=True)
class TestSet:
    """Test clips of all folds, concatenated."""

    clips: tuple[str, ...]
    groups: tuple[str, ...]
    folds: tuple[int, ...]

    @cached_property
    def units(self) -> np.ndarray:
        """Int "N": index of the group of a clip; a clip without one has its own."""
        keys = [(group, -1 if group else i) for i, group in enumerate(self.groups)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys])

    @cached_property
    def grouped(self) -> bool:
        """True if clips share groups (sessions)."""
        return len(set(self.units.tolist())) < len(self.groups)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Sorted names of the groups."""
        return tuple(sorted(set(self.groups) - {""}))


@dataclass(frozen=True)
class ArmPredictions:
    """Correct predictions of an arm: Bool "S N", complete seeds x clips of a `TestSet`.

    Attributes:
        partial: by incomplete seed, the folds that it lacks.
        trials: ids of the trials of the complete seeds.
    """

    seeds: tuple[int, ...]
    selected: np.ndarray
    last: np.ndarray
    partial: Mapping[int, tuple[int, ...]]
    trials: tuple[str, ...]

    def right(self, epoch: Epoch) -> np.ndarray:
        """Bool "S N" at `epoch`."""
        return self.selected if epoch == "selected" else self.last


@dataclass(frozen=True)
class Score:
    """Accuracy of one arm in [0, 100]: mean, SD over seeds, one value per complete seed.

    `sd` is None for one seed, `mean` for none. `deterministic`: the method draws nothing, so that
    equal values are no measured spread.
    """

    mean: float | None
    sd: float | None
    interval: Interval | None
    per_seed: tuple[float, ...]
    deterministic: bool = False


@dataclass(frozen=True)
class Difference:
    """Accuracy of an arm minus that of the arm `reference`, in points, over shared seeds.

    `gap` names the keys of another interpretation that a control has.
    """

    reference: str
    mean: float | None
    interval: Interval | None
    pairs: int
    trials: tuple[str, ...] = ()
    gap: tuple[str, ...] = ()


def shared_test_set(evidence: Evidence) -> TestSet:
    """Test clips of the folds of `evidence`."""
    first = {trial.fold: trial.predictions for trial in reversed(evidence.trials)}
    parts = [(fold, first[fold]) for fold in evidence.folds]
    return TestSet(
        tuple(clip for _, part in parts for clip in part.clips),
        tuple(group for _, part in parts for group in part.groups),
        tuple(fold for fold, part in parts for _ in part.clips),
    )


def outcomes(evidence: Evidence, setting_id: str) -> ArmPredictions:
    """Pool the folds of every seed of a setting."""
    found: dict[int, dict[int, Trial]] = {}
    for trial in evidence.trials:
        if trial.setting_id == setting_id:
            found.setdefault(trial.seed, {})[trial.fold] = trial
    lacking = {
        seed: tuple(fold for fold in evidence.folds if fold not in found[seed])
        for seed in sorted(found)
    }
    seeds = tuple(seed for seed, folds in lacking.items() if not folds)
    pooled = [[found[seed][fold] for fold in evidence.folds] for seed in seeds]
    return ArmPredictions(
        seeds=seeds,
        selected=_stack([[trial.predictions.selected for trial in folds] for folds in pooled]),
        last=_stack([[trial.predictions.last for trial in folds] for folds in pooled]),
        partial={seed: folds for seed, folds in lacking.items() if folds},
        trials=tuple(trial.trial_id for folds in pooled for trial in folds),
    )


def score(right: np.ndarray, test: TestSet, *, seedless: bool = False) -> Score:
    """Accuracy of Bool "S N": each seed's over all N clips.

    An arm that is `seedless` (its method draws nothing) and indeed got the same clips right with
    two or more seeds is `deterministic`: it has no SD, and an interval over groups alone.
    """
    if not len(right):
        return Score(None, None, None, ())
    per_seed = tuple(float(value) for value in 100 * right.mean(axis=1))
    is_fixed = seedless and len(right) > 1 and bool((right == right[0]).all())
    found = _estimate(100.0 * right, test, deterministic=is_fixed)
    interval = found.interval()
    inside = interval and Interval(max(0.0, interval.low), min(100.0, interval.high))
    return Score(found.mean, found.sd, inside, per_seed, is_fixed)


def difference(
    arm: ArmPredictions,
    reference: ArmPredictions,
    name: str,
    test: TestSet,
    epoch: Epoch = "selected",
) -> Difference:
    """Accuracy of `arm` at `epoch` minus that of `reference`, called `name`, by seed.

    Its interval is the one of `cmkd.stats.estimate`.
    """
    if not set(arm.seeds) & set(reference.seeds):
        return Difference(name, None, None, 0)
    delta = _paired(arm, reference, epoch)
    trials = tuple(dict.fromkeys(arm.trials + reference.trials))
    found = _estimate(delta, test)
    return Difference(name, found.mean, found.interval(), len(delta), trials)


def best_arms(arms: Mapping[str, ArmPredictions], epoch: Epoch) -> frozenset[str]:
    """Arms tied with the best at `epoch` (`cmkd.stats.tied_with_best`), from 3 seeds on."""
    return tied_with_best(
        {
            name: 100 * float(arm.right(epoch).mean())
            for name, arm in arms.items()
            if len(arm.seeds) >= LEAST_REPLICATES
        }
    )


def _paired(arm: ArmPredictions, reference: ArmPredictions, epoch: Epoch) -> np.ndarray:
    """Difference per shared seed and clip, Float "S N" in points."""
    at = {seed: number for number, seed in enumerate(reference.seeds)}
    pairs = [(number, at[seed]) for number, seed in enumerate(arm.seeds) if seed in at]
    ours = arm.right(epoch)[[own for own, _ in pairs]]
    theirs = reference.right(epoch)[[other for _, other in pairs]]
    delta: np.ndarray = 100.0 * (ours.astype(np.int8) - theirs.astype(np.int8))
    return delta


def group_accuracies(arm: ArmPredictions, test: TestSet) -> dict[str, float | None]:
    """Selected-epoch accuracy in [0, 100] per group, averaged over seeds; None without seeds.

    Clips without a group are in none of them.
    """
    names = np.array(test.groups)
    return {
        group: 100 * float(arm.selected[:, names == group].mean()) if arm.seeds else None
        for group in test.group_names
    }


def fold_weighted(values: Mapping[int, float | None], test: TestSet) -> float | None:
    """Mean of one value per fold, weighted by its test clips; None where a fold has none."""
    total = 0.0
    for fold in test.folds:
        value = values.get(fold)
        if value is None:
            return None
        total += value
    return total / len(test.folds)


def _estimate(values: np.ndarray, test: TestSet, *, deterministic: bool = False) -> Estimate:
    groups = test.units if test.grouped else None
    return estimate(values, groups, deterministic=deterministic)


def _stack(pooled: list[list[np.ndarray]]) -> np.ndarray:
    if not pooled:
        return np.zeros((0, 0), bool)
    return np.stack([np.concatenate(folds) for folds in pooled])

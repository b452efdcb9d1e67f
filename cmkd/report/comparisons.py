"""Paired differences of arms, and arms with identical predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from cmkd.config.sweep import Arm
from cmkd.report.arms import (
    ArmQuery,
    Family,
    families_of,
    family_of_arm,
    find_arm,
    find_references,
    interpretation_gap,
)
from cmkd.report.cells import ArmPredictions, TestSet, outcomes
from cmkd.report.evidence import Evidence
from cmkd.report.predictions import Predictions
from cmkd.stats import Estimate, estimate, holm

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class PairedDifference:
    """A weighted sum of arms in points, by shared replicate and clip: Float "R N", R >= 1.

    Attributes:
        groups: "N", index of the group of a clip; None if all are independent.
        trials: ids of its trials.
        identical: the arms gave the same predictions, although their settings differ.
    """

    name: str
    values: np.ndarray
    groups: np.ndarray | None
    trials: tuple[str, ...]
    identical: bool = False

    @property
    def replicates(self) -> int:
        """Number of replicates shared by all arms."""
        return len(self.values)

    @cached_property
    def estimate(self) -> Estimate:
        """Mean and uncertainty over all replicates."""
        return estimate(self.values, self.groups)

    def at(self, look: int) -> Estimate:
        """The estimate from the first `look` replicates."""
        return estimate(self.values[:look], self.groups)


def paired(
    parts: Sequence[tuple[float, ArmPredictions]],
    test: TestSet,
    name: str,
    *,
    identical: bool = False,
) -> PairedDifference | None:
    """Sum of weight x accuracy at the selected epoch; None without a shared replicate."""
    shared = sorted(set.intersection(*(set(arm.seeds) for _, arm in parts)))
    if not shared:
        return None
    values = np.zeros((len(shared), len(test.clips)))
    trials: dict[str, None] = {}
    for weight, arm in parts:
        rows = [arm.seeds.index(seed) for seed in shared]
        values += 100.0 * weight * arm.selected[rows]
        folds = len(arm.trials) // len(arm.seeds)
        for row in rows:
            trials |= dict.fromkeys(arm.trials[row * folds : (row + 1) * folds])
    groups = test.units if test.grouped else None
    return PairedDifference(name, values, groups, tuple(trials), identical)


@dataclass(frozen=True)
class Compared:
    """Difference in a family of tests; None without a shared replicate."""

    name: str
    family: Family
    difference: PairedDifference | None
    p_holm: float | None


def control_differences(
    evidence: Evidence, test: TestSet
) -> Iterator[tuple[Arm, Arm, PairedDifference | None]]:
    """Every student arm minus its control; see `arms.find_references`."""
    references = find_references(evidence.sweep, "control")
    for arm in evidence.sweep.arms:
        control = references.get(arm.name)
        if control is not None and control.setting != arm.setting:
            name = f"{arm.name} {MINUS} {control.name}"
            parts = [(1.0, arm), (-1.0, control)]
            yield (
                arm,
                control,
                paired([(w, outcomes_of(evidence, part)) for w, part in parts], test, name),
            )


def against_control(sources: Sequence[tuple[Evidence, TestSet]]) -> tuple[Compared, ...]:
    """`control_differences` of all `sources`; Holm per family of networks, equal pairs once."""
    found: dict[Family, dict[str, PairedDifference | None]] = {}
    seen: set[tuple[str, str]] = set()
    for evidence, test in sources:
        for arm, control, difference in control_differences(evidence, test):
            pair = (arm.setting.id, control.setting.id)
            if pair not in seen:
                seen.add(pair)
                rows = found.setdefault(family_of_arm(arm.setting), {})
                name = f"{arm.name} {MINUS} {control.name}"
                gap = interpretation_gap(arm.setting, control.setting)
                name += f" (other {', '.join(gap)})" if gap else ""
                # Sweeps may share names of different settings.
                name += f" ({evidence.sweep.spec.name})" if name in rows else ""
                rows[name] = difference
    return tuple(row for family, rows in found.items() for row in _adjusted(rows, family))


Corner = tuple[bool, bool]
"""(has spatial KD, has temporal KD)."""

FACTORIAL: Mapping[str, Callable[[Corner], float]] = {
    "spatial KD (main effect)": lambda corner: 0.5 if corner[0] else -0.5,
    "temporal KD (main effect)": lambda corner: 0.5 if corner[1] else -0.5,
    "interaction": lambda corner: 1.0 if corner[0] == corner[1] else -1.0,
}
"""Weights of the four arms of the 2 x 2 design, all of them with a decoder.

The interaction is the gain of one kind of KD by the presence of the other.
"""


def factorial(evidence: Evidence, test: TestSet) -> tuple[Compared, ...]:
    """Main effects and interaction of both kinds of KD, by family that has all four arms."""
    rows: list[Compared] = []
    for family in families_of(evidence.sweep):
        arms: dict[Corner, Arm | None] = {}
        for spatial in (False, True):
            for temporal in (False, True):
                method = {"lambda_1": spatial or 0.0, "lambda_2": temporal or 0.0}
                query = ArmQuery(family=family, method=method)
                arms[spatial, temporal] = find_arm(evidence.sweep, query)
        pooled = {at: outcomes_of(evidence, arm) for at, arm in arms.items() if arm is not None}
        if len(pooled) == len(arms):
            rows += _adjusted(
                {
                    name: paired([(weight(at), arm) for at, arm in pooled.items()], test, name)
                    for name, weight in FACTORIAL.items()
                },
                family,
            )
    return tuple(rows)


def _adjusted(found: Mapping[str, PairedDifference | None], family: Family) -> Iterator[Compared]:
    measured = {name: pair for name, pair in found.items() if pair is not None}
    p_values = holm([difference.estimate.p for difference in measured.values()])
    adjusted = dict(zip(measured, p_values, strict=True))
    for name, difference in found.items():
        yield Compared(name, family, difference, adjusted.get(name))


def outcomes_of(evidence: Evidence, arm: Arm) -> ArmPredictions:
    """Test results of an arm."""
    return outcomes(evidence, arm.setting.id)


def identical_arms(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """Pairs of arms of different settings with the same predictions in all shared trials.

    Compared are the class of every clip at the selected epoch and the correct clips at the last.
    Trials with all clips right, all wrong or of one class do not count; untrained networks agree.
    """
    names = {arm.setting.id: arm.name for arm in evidence.sweep.arms}
    answers: dict[str, dict[tuple[int, int], bytes]] = {name: {} for name in names.values()}
    learned: dict[str, set[tuple[int, int]]] = {name: set() for name in names.values()}
    for trial in evidence.trials:
        name, key = names[trial.setting_id], (trial.seed, trial.fold)
        answers[name][key] = _answers(trial.predictions)
        if _has_learned(trial.predictions):
            learned[name].add(key)
    return tuple(
        (one, other)
        for one, other in combinations(answers, 2)
        if learned[one] & learned[other]
        and all(
            answers[one][key] == answers[other][key] for key in answers[one].keys() & answers[other]
        )
    )


def _answers(predictions: Predictions) -> bytes:
    # Names, since class indices differ between files.
    said = "\0".join(predictions.classes[number] for number in predictions.said.tolist())
    return said.encode() + predictions.last.tobytes()


def _has_learned(predictions: Predictions) -> bool:
    labels = np.unique(predictions.labels, return_inverse=True)[1]
    sizes, hits = np.bincount(labels), np.bincount(labels, weights=predictions.last)
    return bool(((hits > 0) & (hits < sizes)).any())

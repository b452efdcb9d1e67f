"""Comparisons of arms: gains over the control, the factorial view, identical arms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from cmkd.config.sweep import Arm
from cmkd.report.arms import (
    ArmQuery,
    Family,
    families_of,
    family_of_arm,
    find_arm,
)
from cmkd.report.evidence import Evidence
from cmkd.report.predictions import Predictions
from cmkd.report.tables import Difference, arm_result, arm_results
from cmkd.stats import holm

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Compared:
    """Difference in a family of tests; `p_holm` is None without a shared replicate."""

    difference: Difference
    family: Family
    p_holm: float | None


def control_differences(evidence: Evidence) -> Iterator[Difference]:
    """Every student arm minus its control; see `arms.find_references`."""
    for own in arm_results(evidence, ["control"]).values():
        difference = own.differences["selected"]["control"]
        if difference is not None and difference.reference != own.arm.name:
            yield replace(difference, name=f"{own.arm.name} {MINUS} {difference.reference}")


def against_control(sources: Sequence[Evidence]) -> tuple[Compared, ...]:
    """`control_differences` of all `sources`; Holm per family of networks, equal pairs once."""
    found: dict[Family, dict[str, Difference]] = {}
    seen: set[tuple[str, str]] = set()
    for evidence in sources:
        for difference in control_differences(evidence):
            arm, control = (own.arm for _, own in difference.parts)
            pair = (arm.setting.id, control.setting.id)
            if pair not in seen:
                seen.add(pair)
                rows = found.setdefault(family_of_arm(arm.setting), {})
                name = difference.name
                if difference.gap and difference.seeds:
                    name += f" (other {', '.join(difference.gap)})"
                # Sweeps may share names of different settings.
                name += f" ({evidence.sweep.spec.name})" if name in rows else ""
                rows[name] = replace(difference, name=name)
    return tuple(
        row for family, rows in found.items() for row in _adjusted([*rows.values()], family)
    )


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


def factorial_arms(evidence: Evidence, family: Family) -> dict[Corner, Arm]:
    """Control, spatial, temporal and both, where the sweep has them in `family`."""
    found = {}
    for temporal, spatial in product((False, True), (False, True)):
        weights = {"lambda_1": spatial or 0.0, "lambda_2": temporal or 0.0}
        arm = find_arm(evidence.sweep, ArmQuery(family=family, method=weights))
        if arm is not None:
            found[spatial, temporal] = arm
    return found


def factorial(evidence: Evidence) -> tuple[Compared, ...]:
    """Main effects and interaction of both kinds of KD, by family that has all four arms."""
    rows: list[Compared] = []
    for family in families_of(evidence.sweep):
        arms = factorial_arms(evidence, family)
        if len(arms) == 4:
            results = {corner: arm_result(evidence, arms[corner]) for corner in sorted(arms)}
            effects = [
                Difference(name, tuple((weight(at), own) for at, own in results.items()))
                for name, weight in FACTORIAL.items()
            ]
            rows += _adjusted(effects, family)
    return tuple(rows)


def _adjusted(differences: Sequence[Difference], family: Family) -> Iterator[Compared]:
    known = [found.p for difference in differences if (found := difference.estimate) is not None]
    p_values = iter(holm(known))
    for difference in differences:
        yield Compared(difference, family, next(p_values) if difference.seeds else None)


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

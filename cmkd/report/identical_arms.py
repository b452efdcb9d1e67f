"""Settings that do nothing: arms that differ by name and setting, yet give the same predictions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from cmkd.report.evidence import Evidence
from cmkd.report.predictions import Predictions

Pair = tuple[str, str]
"""Names of two arms, in the order of the sweep."""


def twins(evidence: Evidence) -> tuple[Pair, ...]:
    """Pairs of arms of different settings that gave the same predictions in all shared trials.

    That is: at the selected epoch they took every clip for the same class, and at the last, of
    which the classes are not kept, they got the same clips right. Two trainings that really differ
    do not agree on every clip, unless they have learned nothing: trials in which the label alone
    decides whether a clip is right (all right, all wrong, one class for everything) are no
    witnesses.
    """
    names = {arm.setting.id: arm.name for arm in evidence.sweep.arms}
    answers: dict[str, dict[tuple[int, int], bytes]] = {name: {} for name in names.values()}
    witnesses: dict[str, set[tuple[int, int]]] = {name: set() for name in names.values()}
    for trial in evidence.trials:
        name, place = names[trial.setting_id], (trial.seed, trial.fold)
        answers[name][place] = _answers(trial.predictions)
        if _has_learned(trial.predictions):
            witnesses[name].add(place)
    return tuple(
        (one, other)
        for one, other in combinations(answers, 2)
        if _agree(answers[one], answers[other]) and witnesses[one] & witnesses[other]
    )


def _answers(predictions: Predictions) -> bytes:
    # By name: which index a class has depends on what else occurs in the file.
    said = "\0".join(predictions.classes[number] for number in predictions.said.tolist())
    return said.encode() + predictions.last.tobytes()


def _agree(one: Mapping[tuple[int, int], bytes], other: Mapping[tuple[int, int], bytes]) -> bool:
    return all(one[place] == other[place] for place in one.keys() & other.keys())


def _has_learned(predictions: Predictions) -> bool:
    labels = np.unique(predictions.labels, return_inverse=True)[1]
    sizes, hits = np.bincount(labels), np.bincount(labels, weights=predictions.last)
    return bool(((hits > 0) & (hits < sizes)).any())

"""The baseline of the regression gate: what the arms of a sweep reached, in a committed file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from cmkd.config.base import Config
from cmkd.config.load import explain
from cmkd.errors import InputError
from cmkd.report.judging.twins import twins
from cmkd.report.statistics import mean_sd
from cmkd.report.store.evidence import Evidence
from cmkd.report.values.cells import TestSet, fold_weighted, outcomes, shared_test_set

SCHEMA: Literal[1] = 1
"""Of the file; raised when a field changes its meaning or goes."""

LEAST_SEEDS = 2
"""Of each arm of a baseline; one has no spread to derive a tolerance from."""


class ArmRecord(Config):
    """One arm as it was; `mean` and `sd` over `seeds` complete seeds, in points."""

    setting_id: str = Field(min_length=1)
    mean: float = Field(ge=0, le=100)
    sd: float = Field(ge=0)
    seeds: int = Field(ge=LEAST_SEEDS)


class Baseline(Config):
    """The file that `cmkd report baseline` writes, to be committed and reviewed."""

    schema_version: Literal[1]
    sweep: str = Field(min_length=1, description="spec that the arms come from")
    data: str
    data_id: str
    selection: str
    folds: tuple[int, ...] = Field(min_length=1)
    test_clips: int = Field(ge=1)
    arms: dict[str, ArmRecord] = Field(min_length=1)
    teachers: dict[str, float | None] = Field(description="accuracy by half; None: run not stored")
    identical: tuple[tuple[str, str], ...] = Field(
        description="arms that gave the same predictions, and are known to"
    )
    drift: float = Field(ge=0, description="points allowed for another platform")
    commits: tuple[str, ...] = Field(description="of the trials")
    platform: str
    version: str = Field(description="of cmkd")


def make_baseline(
    evidence: Evidence, sweep: str, *, drift: float, platform: str, version: str
) -> Baseline:
    """What `evidence` of the spec called `sweep` is, to be compared with later.

    Raises:
        InputError: no arm has a complete seed, or one has some, but fewer than `LEAST_SEEDS`.
    """
    test = shared_test_set(evidence)
    arms = {}
    for name, (setting_id, values) in measured(evidence).items():
        if not values:
            continue
        if len(values) < LEAST_SEEDS:
            raise InputError(
                f"arm {name} has one complete seed on {evidence.data}; a baseline needs "
                f"{LEAST_SEEDS} to know their spread; run: cmkd sweep {sweep} "
                f"--data {evidence.data} --seeds {max(LEAST_SEEDS, len(evidence.seeds))}"
            )
        mean, sd = mean_sd(values)
        arms[name] = ArmRecord(setting_id=setting_id, mean=mean, sd=sd or 0.0, seeds=len(values))
    if not arms:
        raise InputError(f"no arm has a complete seed on {evidence.data}, so there is no baseline")
    return Baseline(
        schema_version=SCHEMA,
        sweep=sweep,
        data=evidence.data,
        data_id=evidence.data_id,
        selection=evidence.selection,
        folds=evidence.folds,
        test_clips=len(test.clips),
        arms=arms,
        teachers=teacher_accuracies(evidence, test),
        identical=twins(evidence),
        drift=drift,
        commits=evidence.commits,
        platform=platform,
        version=version,
    )


def render_baseline(baseline: Baseline) -> str:
    """The file's text; equal baselines give equal bytes."""
    return json.dumps(baseline.as_json(), ensure_ascii=False, indent=1) + "\n"


def read_baseline(path: Path) -> Baseline:
    """The baseline in the file `path`.

    Raises:
        InputError: it is not there, or is no such file; the message has the remedy.
    """
    remedy = f"write it with: cmkd report baseline --out {path}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no baseline can be read ({error.strerror}); {remedy}") from None
    try:
        return Baseline.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: no baseline: {explain(error, Baseline)[1]}; {remedy}") from None


Measurements = Mapping[str, tuple[str, Sequence[float]]]
"""Arm -> its setting id, and its accuracy of each complete seed."""


def measured(evidence: Evidence) -> Measurements:
    """What every arm of `evidence` reaches at the selected epoch, in percent."""
    found = {}
    for arm in evidence.sweep.arms:
        right = outcomes(evidence, arm.setting.id).selected
        found[arm.name] = (
            arm.setting.id,
            (100 * right.mean(axis=1)).tolist() if len(right) else [],
        )
    return found


def teacher_accuracies(evidence: Evidence, test: TestSet) -> dict[str, float | None]:
    """Accuracy of the RGB teacher of each half, in percent; None where its run is not stored."""
    return {
        half: fold_weighted({fold: one.selected for fold, one in by_fold.items()}, test)
        for half, by_fold in sorted(evidence.teachers.items())
    }

"""Provenance of an arm's numbers: trials, runs, commits and setting, as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cmkd.config.trial import Setting
from cmkd.errors import InputError
from cmkd.report.arms import flat
from cmkd.report.evidence import Teacher, Trial, trials_of
from cmkd.report.tables import ArmResult, Table
from cmkd.report.text import DASH, difference_text, heading, score_text, usual_seeds
from cmkd.tracking.store import MLFLOW_MODE


def traces(table: Table, arm: str | None = None) -> tuple[ArmResult, ...]:
    """Every arm of `table`, or the one called `arm`.

    Raises:
        InputError: the table has no arm of that name.
    """
    known = {own.arm.name: own for own in table.measured}
    if arm is not None and arm not in known:
        raise InputError(
            f"table {table.spec.name} has no arm {arm!r}; it has: {', '.join(known) or 'none'}"
        )
    return (known[arm],) if arm is not None else table.measured


def teachers_name(family: str) -> str:
    """Line of a family's RGB teachers in the grid of runs."""
    return f"RGB teacher of the {family} family (by fold)"


def run_url(server: str, run: Trial | Teacher) -> str:
    """Address of a run on the MLflow pages at `server`."""
    return f"{server}/#/experiments/{run.experiment_id}/runs/{run.run_id}?{MLFLOW_MODE}"


SCHEMA = 1
"""Version of the JSON; raised when a key changes its meaning or goes."""


def render_trace(table: Table, arms: Sequence[ArmResult]) -> str:
    """Cells, setting and trials of `arms` as text."""
    return "\n".join(line for own in arms for line in _lines(table, own)) + "\n"


def _lines(table: Table, own: ArmResult) -> Iterator[str]:
    arm, plain = own.arm, flat(Setting())
    yield f"{heading(table)}, {arm.name}: setting {arm.setting.id}"
    yield f"  selected epoch: {score_text(own.selected)}"
    yield f"  last epoch: {score_text(own.scores['last'])}"
    if "top5" in own.scores:
        yield f"  top-5, selected epoch: {score_text(own.scores['top5'])}"
    for role, delta in own.differences["selected"].items():
        reference = delta.reference if delta is not None else DASH
        text = difference_text(delta, arm.name, reference, usual_seeds(table))
        yield f"  difference to {role} ({reference}): {text}"
    config = ", ".join(
        f"{key}={json.dumps(value)}"
        for key, value in flat(arm.setting).items()
        if value != plain.get(key)
    )
    yield f"  config, where not the default: {config or DASH}"
    trials = trials_of(table.evidence, arm)
    for trial in trials:
        right = trial.predictions
        where = run_url(table.server, trial) if table.server is not None else ""
        yield (
            f"  seed {trial.seed} fold {trial.fold}: trial {trial.trial_id}, run {trial.run_id}, "
            f"commit {trial.commit}, selected {100 * right.selected.mean():.1f}, last "
            f"{100 * right.last.mean():.1f} {where}".rstrip()
        )
    if table.server is None and trials:
        yield f"  to see a run: cmkd ui, then {run_url('http://127.0.0.1:5000', trials[0])}"


def render_trace_json(table: Table, arms: Sequence[ArmResult]) -> str:
    """Cells, whole setting and trials of `arms` as JSON."""
    evidence = table.evidence
    whole = {
        "schema": SCHEMA,
        "table": table.spec.name,
        **{key: getattr(evidence, key) for key in ("data", "data_id", "selection")},
        "arms": [_arm_json(table, own) for own in arms],
    }
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def _arm_json(table: Table, own: ArmResult) -> dict[str, Any]:
    cells: dict[str, Any] = {
        measure: {"value": score.mean, "trials": list(own.trials)}
        for measure, score in own.scores.items()
    }
    for role, delta in own.differences["selected"].items():
        if delta is not None:
            cells[f"difference to {role}"] = {
                "value": delta.mean,
                "reference": delta.reference,
                "trials": list(delta.trials),
            }
    return {
        "arm": own.arm.name,
        "setting_id": own.arm.setting.id,
        "config": own.arm.setting.as_json(),
        "cells": cells,
        "trials": [
            _trial_json(table.server, trial) for trial in trials_of(table.evidence, own.arm)
        ],
    }


def _trial_json(server: str | None, trial: Trial) -> dict[str, Any]:
    keys = ("trial_id", "run_id", "experiment_id", "seed", "fold", "commit")
    found = {key: getattr(trial, key) for key in keys}
    return found | ({"url": run_url(server, trial)} if server is not None else {})

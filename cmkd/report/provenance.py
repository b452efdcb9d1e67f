"""Provenance of an arm's numbers: trials, runs, commits and setting, as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmkd.config.trial import Setting
from cmkd.errors import InputError
from cmkd.report.evidence import Trial, trials_of
from cmkd.report.runs import Teacher
from cmkd.report.tables import ArmResult, Table
from cmkd.report.text import DASH, difference_text, heading, score_text, usual_seeds


@dataclass(frozen=True)
class Trace:
    """Arm of a table, its finished trials, and the keys of its setting not at their defaults."""

    measured: ArmResult
    trials: tuple[Trial, ...]
    departures: Mapping[str, Any]


def traces(table: Table, arm: str | None = None) -> tuple[Trace, ...]:
    """Every arm of `table`, or the one called `arm`.

    Raises:
        InputError: the table has no arm of that name.
    """
    known = [measured.arm.name for measured in table.measured]
    if arm is not None and arm not in known:
        raise InputError(
            f"table {table.spec.name} has no arm {arm!r}; it has: {', '.join(known) or 'none'}"
        )
    return tuple(
        Trace(
            measured,
            trials_of(table.evidence, measured.arm),
            dict(_departures(measured.arm.setting)),
        )
        for measured in table.measured
        if arm in (None, measured.arm.name)
    )


def teachers_name(family: str) -> str:
    """Line of a family's RGB teachers in the grid of runs."""
    return f"RGB teacher of the {family} family (by fold)"


def run_url(server: str, run: Trial | Teacher) -> str:
    """Address of a run on the MLflow pages at `server`."""
    return f"{server}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def _departures(setting: Setting) -> Iterator[tuple[str, Any]]:
    yield from _unequal(setting.as_json(), Setting().as_json(), "")


def _unequal(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any]]:
    for key, value in one.items():
        if isinstance(value, Mapping) and isinstance(other.get(key), Mapping):
            yield from _unequal(value, other[key], f"{prefix}{key}.")
        elif value != other.get(key):
            yield prefix + key, value


SCHEMA = 1
"""Version of the JSON; raised when a key changes its meaning or goes."""


def render_trace(table: Table, traces: Sequence[Trace]) -> str:
    """Cells, setting and trials of every arm as text."""
    return "\n".join(line for trace in traces for line in _lines(table, trace)) + "\n"


def _lines(table: Table, trace: Trace) -> Iterator[str]:
    arm, measured = trace.measured.arm, trace.measured
    yield f"{heading(table)}, {arm.name}: setting {arm.setting.id}"
    yield f"  selected epoch: {score_text(measured.selected)}"
    yield f"  last epoch: {score_text(measured.last)}"
    for role, delta in measured.differences["selected"].items():
        reference = delta.reference if delta is not None else DASH
        text = difference_text(delta, arm.name, reference, usual_seeds(table))
        yield f"  difference to {role} ({reference}): {text}"
    config = ", ".join(f"{key}={json.dumps(value)}" for key, value in trace.departures.items())
    yield f"  config, where not the default: {config or DASH}"
    for trial in trace.trials:
        right = trial.predictions
        where = run_url(table.server, trial) if table.server is not None else ""
        yield (
            f"  seed {trial.seed} fold {trial.fold}: trial {trial.trial_id}, run {trial.run_id}, "
            f"commit {trial.commit}, selected {100 * right.selected.mean():.1f}, last "
            f"{100 * right.last.mean():.1f} {where}".rstrip()
        )
    if table.server is None and trace.trials:
        place = run_url("http://127.0.0.1:5000", trace.trials[0])
        yield f"  to see a run: cmkd ui, then {place}"


def render_trace_json(table: Table, traces: Sequence[Trace]) -> str:
    """Cells, whole setting and trials of every arm as JSON."""
    evidence = table.evidence
    whole = {
        "schema": SCHEMA,
        "table": table.spec.name,
        "data": evidence.data,
        "data_id": evidence.data_id,
        "selection": evidence.selection,
        "arms": [_arm(table, trace) for trace in traces],
    }
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def _arm(table: Table, trace: Trace) -> dict[str, Any]:
    arm, measured = trace.measured.arm, trace.measured
    return {
        "arm": arm.name,
        "setting_id": arm.setting.id,
        "config": arm.setting.as_json(),
        "cells": {
            "selected": {"value": measured.selected.mean, "trials": list(measured.trials)},
            "last": {"value": measured.last.mean, "trials": list(measured.trials)},
            **{
                f"difference to {role}": {
                    "value": delta.mean,
                    "reference": delta.reference,
                    "trials": list(delta.trials),
                }
                for role, delta in measured.differences["selected"].items()
                if delta is not None
            },
        },
        "trials": [_trial(table.server, trial) for trial in trace.trials],
    }


def _trial(server: str | None, trial: Trial) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "run_id": trial.run_id,
        "experiment_id": trial.experiment_id,
        "seed": trial.seed,
        "fold": trial.fold,
        "commit": trial.commit,
        **({"url": run_url(server, trial)} if server is not None else {}),
    }

"""Where the numbers of an arm come from: trials, runs, commits and the whole setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cmkd.config.trial import Setting
from cmkd.errors import InputError
from cmkd.report.evidence import Trial, trials_of
from cmkd.report.runs import Teacher
from cmkd.report.tables import Measured, Table


@dataclass(frozen=True)
class Trace:
    """One arm of a table and its finished trials, by seed and fold.

    `departures` are the dotted keys of its setting that are not at their defaults.
    """

    measured: Measured
    trials: tuple[Trial, ...]
    departures: Mapping[str, Any]


def traces(table: Table, arm: str | None = None) -> tuple[Trace, ...]:
    """Every arm of `table`, or the one called `arm`.

    Raises:
        InputError: the table has no arm of that name.
    """
    known = [one.arm.name for one in table.measured]
    if arm is not None and arm not in known:
        raise InputError(
            f"table {table.spec.name} has no arm {arm!r}; it has: {', '.join(known) or 'none'}"
        )
    return tuple(
        Trace(one, trials_of(table.evidence, one.arm), dict(_departures(one.arm.setting)))
        for one in table.measured
        if arm in (None, one.arm.name)
    )


def teachers_name(family: str) -> str:
    """Names the line of the runs of the RGB teachers of a family."""
    return f"RGB teacher of the {family} family (by fold)"


def run_url(server: str, one: Trial | Teacher) -> str:
    """Where the MLflow pages at `server` show the run of a trial, or of a teacher that has one."""
    return f"{server}/#/experiments/{one.experiment_id}/runs/{one.run_id}"


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

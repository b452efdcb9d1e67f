"""Fields of a run record, typed and checked; what is wrong names the run and the remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cmkd.errors import InputError
from cmkd.tracking.records import RunRecord


def tag(run: RunRecord, name: str) -> str:
    """The tag `name` of `run`; InputError when it has none."""
    value = run.tags.get(name)
    if not value:
        raise InputError(
            f"run {run.run_id} has no tag {name!r}, so it was not written by cmkd sweep; delete it"
        )
    return value


def number(run: RunRecord, name: str) -> int:
    """The tag `name` of `run` as a whole number >= 0; InputError when it is none."""
    value = tag(run, name)
    if not value.isdecimal():
        raise InputError(f"run {run.run_id}: tag {name!r} is {value!r}, not a number; delete it")
    return int(value)


def metric(run: RunRecord, name: str) -> float:
    """The accuracy `name` of `run`; InputError when it is missing or outside [0, 100]."""
    value = run.metrics.get(name)
    if value is None or not math.isfinite(value) or not 0 <= value <= 100:
        raise InputError(
            f"run {run.run_id}: metric {name} is {value}, not an accuracy in [0, 100]; "
            "delete that run and sweep again"
        )
    return value


def place(run: RunRecord) -> tuple[int, int]:
    """Seed and fold of a trial."""
    return number(run, "seed"), number(run, "fold")


def one_value(runs: Sequence[RunRecord], name: str, remedy: str) -> str:
    """The value of tag `name` that all `runs` share; InputError naming the runs otherwise."""
    holders: dict[str, list[str]] = {}
    for run in runs:
        holders.setdefault(tag(run, name), []).append(run.run_id)
    if len(holders) > 1:
        raise InputError(f"these runs mix values of {name}: {_listed(holders)}; {remedy}")
    return next(iter(holders))


def _listed(holders: Mapping[str, Sequence[str]]) -> str:
    def some(run_ids: Sequence[str]) -> str:
        more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
        return ", ".join(run_ids[:3]) + more

    return "; ".join(f"{value!r} in {some(ids)}" for value, ids in sorted(holders.items()))
